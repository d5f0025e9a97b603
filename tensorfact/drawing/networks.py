"""Draw a network in Penrose notation: cores are nodes, bonds are lines, and open legs have a free end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..network import Core, Mode, Network
from ..network.starts import ZERO
from .layout import DOT, Item, Layout, Line, arrange
from .svg import HEADING, SMALL, Box, Canvas, Point, text_box, text_width

_SCALES = (1.0, 1.2, 1.45, 1.75, 2.1, 2.6)
"""Factors of the gaps, tried in this order until every label fits."""

_ALONG = (0.5, 0.42, 0.58, 0.35, 0.65, 0.27, 0.73, 0.2, 0.8)
"""Positions of a label along its line, the best first."""

_SIDES = {"in": "inputs", "out": "outputs", "stack": "stack"}
_OVERLAP, _CROSSED = 1000.0, 20.0

Label = tuple[float, float, str]
"""Centre (x, y) and content of a small text."""


def network_diagram(network: Network, modes: Sequence[Mode], title: str = "") -> str:
    """Draw a network in Penrose notation.

    A core that starts at zero is hollow, and one that is not trained is dashed. A leg of three or more cores, or an
    open leg of several cores, is a dot joined to each of them.

    Args:
        network: The network.
        modes: The tensor's modes; their sides set the colours of the open legs.
        title: A title above the picture.

    Returns:
        The text of an SVG file, for light and dark pages.

    Examples:
        >>> from tensorfact.network import Mode
        >>> from tensorfact import TensorTrain
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> picture = network_diagram(TensorTrain(rank=4).network(modes), modes)
        >>> picture.startswith("<svg"), "in 64" in picture, "hollow: starts at zero" in picture
        (True, True, True)
    """
    sides = {mode.name: mode.side for mode in modes}
    tried = []
    for scale in _SCALES:
        layout = arrange(network, sides, scale)
        labels, crowding = _label(layout)
        tried.append((crowding, layout, labels))
        if crowding < _CROSSED:
            break
    _, layout, labels = min(tried, key=lambda each: each[0])
    canvas = Canvas()
    _draw(canvas, layout)
    for x, y, text in labels:
        canvas.text(x, y, text, "tf-muted", SMALL)
    _frame(canvas, network, layout, title)
    return canvas.svg(title or f"Tensor network {network}")


def draw_tensor(canvas: Canvas, x: float, y: float, name: str, modes: Sequence[Mode]) -> Box:
    """Draw one tensor: a node with a leg for each of its modes.

    Args:
        canvas: The canvas to draw on.
        x: The centre of the node.
        y: The centre of the node.
        name: The tensor's name.
        modes: The tensor's modes.

    Returns:
        The bounding box, labels included.

    Examples:
        >>> draw_tensor(Canvas(), 0, 0, "W", [Mode("in", 8, "in"), Mode("out", 8, "out")]).top
        -22.0
    """
    core = Core(name, tuple(mode.name for mode in modes))
    network = Network((core,), core.legs, {mode.name: mode.size for mode in modes})
    layout = arrange(network, {mode.name: mode.side for mode in modes}, 1.0)
    layout.move(x - layout.items[0].x, y)
    _draw(canvas, layout)
    box = layout.items[0].box()
    for end in layout.ends:
        box = box.union(text_box(end.x, layout.bottom + 10, end.label))
    return box


# ------------------------------------------------------------------------------------------------------------- labels


def _label(layout: Layout) -> tuple[list[Label], float]:
    """Place the size label of every bond and dot; return the labels and the highest placement cost."""
    taken = [text_box(end.x, layout.bottom + 10, end.label) for end in layout.ends]
    taken += [item.box(2.0) for item in layout.items]
    strokes = [pair for line in layout.lines for pair in zip(line.points, line.points[1:], strict=False)]
    for end in layout.ends:
        strokes += layout.strokes(end)
    labels, crowding = [], 0.0
    wishes = [(line.label, tuple(_beside_line(line))) for line in layout.lines if line.label]
    wishes += [(item.name, tuple(_beside_dot(item))) for item in layout.items if item.core is None]
    for text, places in wishes:
        cost, (x, y) = min((cost + _crowding(place, text, taken, strokes), place) for cost, place in places)
        crowding = max(crowding, cost)
        labels.append((x, y, text))
        taken.append(text_box(x, y, text, SMALL))
    return labels, crowding


def _crowding(place: Point, text: str, taken: Sequence[Box], strokes: Sequence[tuple[Point, Point]]) -> float:
    box = text_box(*place, text, SMALL)
    overlaps = sum(box.overlaps(other) for other in taken)
    near = Box(box.left - 2, box.top, box.right + 2, box.bottom)
    return _OVERLAP * overlaps + _CROSSED * sum(near.meets(*stroke) for stroke in strokes)


def _beside_line(line: Line) -> Iterator[tuple[float, Point]]:
    """Yield the places next to a line with their cost; the best is above its middle."""
    start, end = line.middle
    dx, dy = end[0] - start[0], end[1] - start[1]
    long = (dx**2 + dy**2) ** 0.5 or 1.0
    normal = (dy / long, -dx / long) if dx >= 0 else (-dy / long, dx / long)
    away = abs(normal[0]) * (text_width(line.label, SMALL) / 2 + 5) + abs(normal[1]) * (0.6 * SMALL + 3)
    for along in _ALONG:
        for side in (1, -1):
            cost = 10 * abs(along - 0.5) + (0.0 if side > 0 else 2.0)
            x, y = start[0] + dx * along, start[1] + dy * along
            yield cost, (x + side * away * normal[0], y + side * away * normal[1])


def _beside_dot(item: Item) -> Iterator[tuple[float, Point]]:
    side = text_width(item.name, SMALL) / 2 + DOT + 5
    places = [(0, -15), (side, -7), (-side, -7), (side, 0), (-side, 0), (0, 15), (side, 10), (-side, 10)]
    for cost, (dx, dy) in enumerate(places):
        yield float(cost), (item.x + dx, item.y + dy)


# ------------------------------------------------------------------------------------------------------------ drawing


def _draw(canvas: Canvas, layout: Layout) -> None:
    """Draw lines, dots, nodes and the labels of the open legs."""
    for line in layout.lines:
        canvas.path(line.points, "tf-line", line.data)
    for end in layout.ends:
        style = f"tf-line tf-{end.side}-line" if end.side else "tf-line"
        for stroke in layout.strokes(end):
            canvas.path(stroke, style)
    for end in layout.ends:
        if len(end.held) > 1:
            canvas.dot(end.x, layout.dots, DOT, f"tf-dot tf-{end.side}-fill" if end.side else "tf-dot")
        canvas.text(end.x, layout.bottom + 10, end.label, f"tf-{end.side}-fill" if end.side else "")
    for item in layout.items:
        if item.core is None:
            canvas.dot(item.x, item.y, DOT, "tf-dot")
        else:
            zero, trained = item.core.start == ZERO, item.core.trained
            style = " ".join(
                word for word in ("tf-node" if trained else "tf-frozen", "tf-hollow" if zero else "") if word
            )
            canvas.pill(item.x, item.y, item.width, item.height, style)
            canvas.text(item.x, item.y, item.name, "tf-bold tf-on" if trained and not zero else "tf-bold")


def _frame(canvas: Canvas, network: Network, layout: Layout, title: str) -> None:
    """Add the title above the diagram, and a legend of the styles it uses below."""
    bounds = canvas.bounds
    middle = (bounds.left + bounds.right) / 2
    if title:
        canvas.text(middle, bounds.top - 24, title, "tf-bold", HEADING)
    found = {end.side for end in layout.ends}
    entries = [(words, side) for side, words in _SIDES.items() if side in found]
    entries += [("hollow: starts at zero", "")] if any(core.start == ZERO for core in network.cores) else []
    entries += [("dashed: frozen", "")] if not all(core.trained for core in network.cores) else []
    rows: list[list[tuple[str, str]]] = [[]]
    for entry in entries:
        if rows[-1] and _length([*rows[-1], entry]) > max(bounds.right - bounds.left, 240.0):
            rows.append([])
        rows[-1].append(entry)
    y = bounds.bottom + 28
    for row in rows:
        x = middle - _length(row) / 2
        for words, side in row:
            if side:
                canvas.path([(x, y), (x + 16, y)], f"tf-line tf-{side}-line")
                x += 22
            canvas.text(x, y, words, "tf-muted", SMALL, "start")
            x += text_width(words, SMALL) + 18
        y += 19


def _length(entries: Sequence[tuple[str, str]]) -> float:
    return sum(text_width(words, SMALL) + (22 if side else 0) + 18 for words, side in entries) - 18

"""Layout of a network diagram: positions of nodes, lines and open legs.

Cores with open legs form the bottom row, with their open legs below. Other cores, and a dot for every leg that three or
more cores share, form rows above it, by their distance from the bottom row. A line therefore joins two neighbours in a
row or two adjacent rows, or it is an arc above its row.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from ..network import Core, Network
from .svg import SMALL, Box, Point, apart, text_width

NODE, DOT = 44.0, 4.5
"""Height of a node, and radius of a dot."""

_GAP, _LEG, _TRACK, _LEVEL = 34.0, 46.0, 26.0, 92.0
"""Minimum distances: between nodes, the length of an open leg, between arcs, between rows."""

_APART = 14.0
"""Minimum distance between the labels of open legs."""

_NEARLY = 8.0
"""A line with a smaller horizontal offset than this is drawn vertical."""


@dataclasses.dataclass(eq=False)
class Item:
    """A core or the dot of a leg, with its position; y grows downwards."""

    name: str
    core: Core | None
    width: float
    height: float
    level: int = 0
    x: float = 0.0
    y: float = 0.0

    def box(self, margin: float = 0.0) -> Box:
        """Return the bounding box with a margin."""
        return Box.around(self.x, self.y, self.width + 2 * margin, self.height + 2 * margin)

    def top(self, dx: float) -> float:
        """Return the height of the outline above the centre, at horizontal offset `dx`."""
        radius = min(self.width, self.height) / 2
        beyond = max(0.0, abs(dx) - (self.width / 2 - radius))
        return self.height / 2 - radius + math.sqrt(max(0.0, radius**2 - beyond**2))

    def anchor(self, x: float) -> float:
        """Return the point on the middle line nearest to `x`, where lines in that direction start."""
        reach = max(0.0, self.width - self.height) / 2
        return max(self.x - reach, min(self.x + reach, x))

    def edge(self, towards: Point) -> Point:
        """Return where the line to a point crosses the outline, whose ends are half circles."""
        start = self.anchor(towards[0])
        dx, dy = towards[0] - start, towards[1] - self.y
        share = min(self.width, self.height) / 2 / (math.hypot(dx, dy) or 1.0)
        return start + dx * share, self.y + dy * share


@dataclasses.dataclass(eq=False)
class End:
    """An open leg: its cores, and the position of its end."""

    label: str
    side: str
    held: tuple[Item, ...]
    x: float = 0.0


@dataclasses.dataclass(frozen=True)
class Line:
    """A drawn bond: points on its path, its SVG path data, and its label."""

    points: tuple[Point, ...]
    data: str
    label: str

    @property
    def middle(self) -> tuple[Point, Point]:
        """The segment next to the label: a whole straight line, the top of an arc, the middle of a curve."""
        at = len(self.points) // 2
        return self.points[at - 1], self.points[at]


@dataclasses.dataclass(frozen=True)
class Bond:
    """A connection of two items: a leg, or an unlabelled spoke of a dot."""

    first: Item
    second: Item
    label: str


@dataclasses.dataclass
class Layout:
    """Positions of all nodes, bonds and open legs of a diagram."""

    rows: list[list[Item]]
    bonds: list[Bond]
    ends: list[End]
    dots: float = 0.0
    bottom: float = 0.0
    lines: list[Line] = dataclasses.field(default_factory=list)

    @property
    def items(self) -> list[Item]:
        """The cores and closed dots, row by row."""
        return [item for row in self.rows for item in row]

    def move(self, dx: float, dy: float) -> None:
        """Shift all nodes and ends of a layout without bonds."""
        for item in self.items:
            item.x, item.y = item.x + dx, item.y + dy
        for end in self.ends:
            end.x += dx
        self.bottom, self.dots = self.bottom + dy, self.dots + dy

    def strokes(self, end: End) -> list[tuple[Point, Point]]:
        """Return the line segments of an open leg: down from its core, or from all its cores to its dot and down."""
        if len(end.held) > 1:
            dot = (end.x, self.dots)
            return [*((item.edge(dot), dot) for item in end.held), (dot, (end.x, self.bottom))]
        item = end.held[0]
        across = max(-item.width / 2 + 8, min(item.width / 2 - 8, end.x - item.x))
        return [((item.x + across, item.y + item.top(across)), (end.x, self.bottom))]


# ------------------------------------------------------------------------------------------------------------- layout


def arrange(network: Network, sides: Mapping[str, str], scale: float) -> Layout:
    """Compute the layout of a network diagram.

    Args:
        network: The network.
        sides: The side of every mode, by name.
        scale: Factor of all gaps; 1 is the usual width.
    """
    items, bonds, ends = _items(network, sides)
    rows: list[list[Item]] = [[] for _ in range(1 + max(item.level for item in items))]
    for item in items:
        rows[item.level].append(item)
    layout = Layout(rows, bonds, ends)
    _spread(layout, scale)
    _raise(layout, scale)
    _route(layout)
    return layout


def _items(network: Network, sides: Mapping[str, str]) -> tuple[list[Item], list[Bond], list[End]]:
    """Return cores and dots of closed legs with their levels, the bonds, and the open legs."""
    cores = {core.name: Item(core.name, core, 0.0, NODE) for core in network.cores}
    dots, bonds, ends = [], [], []
    for leg in dict.fromkeys(leg for core in network.cores for leg in core.legs):
        held = tuple(cores[core.name] for core in network.cores if leg in core.legs)
        size = str(network.sizes[leg])
        if leg in network.output:
            ends.append(End(f"{leg} {size}", sides.get(leg, ""), held))
        elif len(held) == 2:
            bonds.append(Bond(held[0], held[1], size))
        else:
            dots.append(Item(size, None, 2 * DOT, 2 * DOT))
            bonds.extend(Bond(item, dots[-1], "") for item in held)
    for item in cores.values():
        own = [text_width(end.label) + _APART for end in ends if end.held == (item,)]
        inner = sum(own) - (own[0] + own[-1]) / 2 if own else 0.0
        item.width = max(NODE, text_width(item.name) + 20, inner + NODE * 0.8 if len(own) > 1 else 0.0)
    items = [*cores.values(), *dots]
    _levels(items, bonds, [item for end in ends for item in end.held] or list(cores.values()))
    return items, bonds, ends


def _levels(items: Sequence[Item], bonds: Sequence[Bond], ground: Sequence[Item]) -> None:
    """Set the level of every item: its distance from the cores with open legs, or 0 if not connected to them."""
    beside = collections.defaultdict(list)
    for bond in bonds:
        beside[id(bond.first)].append(bond.second)
        beside[id(bond.second)].append(bond.first)
    known: dict[int, int] = {id(item): 0 for item in ground}
    waiting = collections.deque(ground)
    for start in (*ground, *items):
        if id(start) not in known:
            known[id(start)] = 0
            waiting.append(start)
        while waiting:
            item = waiting.popleft()
            for other in beside[id(item)]:
                if id(other) not in known:
                    known[id(other)] = known[id(item)] + 1
                    waiting.append(other)
    for item in items:
        item.level = known[id(item)]


def _spread(layout: Layout, scale: float) -> None:
    """Set horizontal positions: the bottom row, the ends of open legs, then each row above the one below."""
    wider = scale
    for _ in range(14):
        _spread_row(layout, wider)
        wanted, widths, weights = [], [], []
        for end in layout.ends:
            wanted.append(_wanted(layout, end))
            widths.append(text_width(end.label))
            weights.append(300.0 if len(end.held) == 1 else 1.0)
        for end, x in zip(layout.ends, apart(wanted, widths, _APART, weights), strict=True):
            end.x = x
        bent = [abs(e.x - x) for e, x in zip(layout.ends, wanted, strict=True) if len(e.held) == 1]
        if max(bent, default=0.0) < 2.0:
            break
        wider *= 1.15
    below: dict[int, list[float]] = collections.defaultdict(list)
    for row in layout.rows[1:]:
        for bond in layout.bonds:
            low, high = sorted((bond.first, bond.second), key=lambda item: item.level)
            if low.level < high.level and high in row:
                below[id(high)].append(low.x)
        wanted = [_amid(below[id(item)]) for item in row]
        for item, x in zip(row, apart(wanted, [item.width for item in row], _GAP * 1.5 * scale), strict=True):
            item.x = x
        row.sort(key=lambda item: item.x)


def _spread_row(layout: Layout, scale: float) -> None:
    """Place the bottom row, with room for the labels of open legs and of bonds between neighbours."""
    for left, item in itertools.pairwise(layout.rows[0]):
        labels = [
            text_width(b.label, SMALL) for b in layout.bonds if {id(b.first), id(b.second)} == {id(left), id(item)}
        ]
        room = max([_GAP, *(width + 30 for width in labels)]) * scale
        legs = [max((_legs(layout, each), each.width)) / 2 for each in (left, item)]
        item.x = left.x + max(sum(legs) + _APART, left.width / 2 + item.width / 2 + room)


def _legs(layout: Layout, item: Item) -> float:
    """Return the total width of the labels of a core's own open legs."""
    own = [text_width(end.label) + _APART for end in layout.ends if end.held == (item,)]
    return sum(own) - _APART if own else 0.0


def _wanted(layout: Layout, end: End) -> float:
    """Return the preferred x of an open leg: below its core in leg order, or amid its cores."""
    if len(end.held) > 1:
        return _amid([item.x for item in end.held])
    own = [other for other in layout.ends if other.held == end.held]
    widths = [text_width(other.label) + _APART for other in own]
    at = own.index(end)
    centres = [sum(widths[:k]) + widths[k] / 2 for k in range(len(own))]
    return end.held[0].x + centres[at] - (centres[0] + centres[-1]) / 2


def _amid(xs: Sequence[float]) -> float:
    """Return the mean of x positions, or the nearest of them if it is close to the mean."""
    mean = sum(xs) / len(xs)
    nearest = min(xs, key=lambda x: abs(x - mean))
    return nearest if abs(nearest - mean) < _NEARLY else mean


def _raise(layout: Layout, scale: float) -> None:
    """Set vertical positions, far enough apart that no line crosses a node."""
    for lower, upper in zip(layout.rows, layout.rows[1:], strict=False):
        between = [b for b in layout.bonds if {b.first.level, b.second.level} == {lower[0].level, upper[0].level}]
        pairs = [sorted((bond.first, bond.second), key=lambda item: item.level) for bond in between]
        spans = [abs(a.x - b.x) for a, b in pairs if a.core and b.core]  # these lines have labels
        least = _LEVEL if any(item.core for item in upper) else 0.75 * _LEVEL
        least = max([least, *(min(0.7 * span, 240.0) for span in spans)])
        rise = max([least * scale, *(_steep(a.anchor(b.x), b.anchor(a.x), [*lower, *upper], (a, b)) for a, b in pairs)])
        tracks = max(_tracks(layout, lower).values(), default=-1) + 1
        rise = max(rise, NODE + 22 + _TRACK * (tracks + 0.5)) if tracks else rise
        for item in upper:
            item.y = lower[0].y - rise
    spokes = [(item, end.x) for end in layout.ends if len(end.held) > 1 for item in end.held]
    row = layout.rows[0]
    depths = [_steep(item.anchor(x), x, row, (item,)) for item, x in spokes]
    layout.dots = max([NODE / 2 + 40, *depths])
    layout.bottom = layout.dots + 30 if spokes else NODE / 2 + _LEG


def _steep(start: float, end: float, others: Sequence[Item], own: Sequence[Item]) -> float:
    """Return the rise between two rows at which a straight line passes between the nodes of both."""
    span, needed = abs(end - start), 0.25 * abs(end - start)
    for item in others:
        if item in own or not min(start, end) - item.width / 2 < item.x < max(start, end) + item.width / 2:
            continue
        lower = item.level == min(each.level for each in (*own, item))
        clear = min(abs(item.x + side * item.width / 2 - (start if lower else end)) for side in (-1, 1))
        needed = max(needed, (item.height / 2 + 9) * span / max(clear, 8.0))
    return min(needed, 420.0)


# -------------------------------------------------------------------------------------------------------------- lines


def _tracks(layout: Layout, row: Sequence[Item]) -> dict[int, int]:
    """Return the track (height level) of every arc between non-neighbours in a row, by the number of the bond."""
    at = {id(item): k for k, item in enumerate(row)}
    spans = {
        number: sorted((at[id(bond.first)], at[id(bond.second)]))
        for number, bond in enumerate(layout.bonds)
        if id(bond.first) in at and id(bond.second) in at
    }
    tracks: dict[int, int] = {}
    for number, (start, end) in sorted(spans.items(), key=lambda span: (span[1][1] - span[1][0], span[1][0], span[0])):
        if end - start > 1:
            taken = {tracks[n] for n in tracks if spans[n][0] < end and start < spans[n][1]}
            tracks[number] = next(k for k in range(len(tracks) + 1) if k not in taken)
    return tracks


def _route(layout: Layout) -> None:
    """Route all bonds: arcs above a row, straight lines or curves otherwise."""
    tracks = {number: track for row in layout.rows for number, track in _tracks(layout, row).items()}
    ports = _ports(layout, tracks)
    alike = collections.defaultdict(list)
    for number, bond in enumerate(layout.bonds):
        alike[frozenset((id(bond.first), id(bond.second)))].append(number)
    for number, bond in enumerate(layout.bonds):
        if number in tracks:
            layout.lines.append(_arc(bond, tracks[number], ports[number]))
            continue
        same = alike[frozenset((id(bond.first), id(bond.second)))]
        layout.lines.append(_bow(bond, same.index(number) - (len(same) - 1) / 2))


def _ports(layout: Layout, tracks: Mapping[int, int]) -> dict[int, dict[int, float]]:
    """Return the horizontal offsets at which arcs leave their items, ordered so that arcs do not cross there."""
    ports: dict[int, dict[int, float]] = {number: {} for number in tracks}
    for item in layout.items:
        mine = [n for n in tracks if item in (layout.bonds[n].first, layout.bonds[n].second)]
        reach = {n: layout.bonds[n].first.x + layout.bonds[n].second.x - 2 * item.x for n in mine}
        left = sorted((n for n in mine if reach[n] < 0), key=lambda n: (-tracks[n], n))
        right = sorted((n for n in mine if reach[n] >= 0), key=lambda n: (-tracks[n], n))
        risen = any(
            item in (b.first, b.second) and max(b.first.level, b.second.level) > item.level for b in layout.bonds
        )
        centred = len(mine) == 1 and not risen
        step = 0.0 if centred or item.core is None else min(11.0, (item.width / 2 - 4) / max(len(left), len(right), 1))
        for sign, numbers in ((-1, left), (1, right)):
            for place, number in enumerate(numbers):
                ports[number][id(item)] = sign * step * (place + 1)
    return ports


def _arc(bond: Bond, track: int, ports: Mapping[int, float]) -> Line:
    """Return an arc with round corners: up from one item, across, and down to the other."""
    left, right = sorted((bond.first, bond.second), key=lambda item: item.x)
    a, b = left.x + ports[id(left)], right.x + ports[id(right)]
    height = left.y - NODE / 2 - 22 - _TRACK * track
    start, end = left.y - left.top(ports[id(left)]), right.y - right.top(ports[id(right)])
    bend = min(18.0, (b - a) / 2)
    data = (
        f"M{a:.1f} {start:.1f}V{height + bend:.1f}Q{a:.1f} {height:.1f} {a + bend:.1f} {height:.1f}"
        f"H{b - bend:.1f}Q{b:.1f} {height:.1f} {b:.1f} {height + bend:.1f}V{end:.1f}"
    )
    return Line(((a, start), (a, height), (b, height), (b, end)), data, bond.label)


def _bow(bond: Bond, place: float) -> Line:
    """Return a straight line, or a curve next to it where several bonds join the same two items."""
    a, b = bond.first, bond.second
    long = math.hypot(b.x - a.x, b.y - a.y)
    across = ((b.y - a.y) / long, -(b.x - a.x) / long)
    bend = ((a.x + b.x) / 2 + across[0] * place * 40, (a.y + b.y) / 2 + across[1] * place * 40)
    start, end = a.edge(bend), b.edge(bend)
    steps = 7 if place else 1
    points = tuple(_between(start, bend if place else end, end, k / steps) for k in range(steps + 1))
    curve = f"M{start[0]:.1f} {start[1]:.1f}Q{bend[0]:.1f} {bend[1]:.1f} {end[0]:.1f} {end[1]:.1f}"
    straight = f"M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}"
    return Line(points, curve if place else straight, bond.label)


def _between(start: Point, bend: Point, end: Point, t: float) -> Point:
    """Return a point of a quadratic Bezier curve."""
    weights = ((1 - t) ** 2, 2 * t * (1 - t), t**2)
    x, y = (sum(w * p[k] for w, p in zip(weights, (start, bend, end), strict=True)) for k in (0, 1))
    return x, y

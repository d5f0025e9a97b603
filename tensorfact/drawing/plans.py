"""Draw a resolved plan: how the parameters of a model fold into tensors, slice by slice."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from ..plan import ResolvedPlan, Rule, TensorGroup
from ..plan.rules import Coordinate
from .networks import draw_tensor
from .svg import SMALL, TEXT, Box, Canvas, text_width

PALETTE = (
    *("#4e86c6", "#e08a3c", "#3fa27c", "#b8689f", "#c9a227", "#7a6fc0", "#c8605a", "#4aa9b8", "#8c8f3a", "#a07855"),
    *("#9dbde1", "#eebd91", "#94ccb5", "#d7a8c8", "#e0cb86", "#b4addb", "#e0a5a1", "#99cfd7", "#bdbf86", "#c9b09a"),
)
"""Colours of rules, the second half paler; they repeat if there are more rules."""

_ROWS, _COLUMNS, _LAST = 16, 24, 3
"""Maximum number of rows and columns of a grid, and the number of last ones shown in a shortened grid."""

_KEYS, _HIGH, _GAP, _BETWEEN = 20, 15.0, 2.0, 38.0
_MORE_ROWS, _MORE_COLUMNS = "\N{VERTICAL ELLIPSIS}", "\N{HORIZONTAL ELLIPSIS}"

SliceCoordinates = tuple[Coordinate, ...]
"""One coordinate for each stack axis of a tensor."""


@dataclasses.dataclass(frozen=True)
class _Grid:
    """The slices of a tensor, in rows and columns.

    Args:
        tensor: The tensor.
        rows: The coordinates of its first stack axis; None stands for omitted ones.
        columns: The coordinates of its other stack axes; None stands for omitted ones.
        filled: The rules whose parameters fill each slice.
    """

    tensor: TensorGroup
    rows: tuple[SliceCoordinates | None, ...]
    columns: tuple[SliceCoordinates | None, ...]
    filled: Mapping[SliceCoordinates, tuple[Rule, ...]]

    @property
    def row_labels(self) -> list[str]:
        return [_spell(place, _MORE_ROWS) for place in self.rows]

    @property
    def column_labels(self) -> list[str]:
        return [_spell(place, _MORE_COLUMNS) for place in self.columns]

    @property
    def width(self) -> float:
        """The width of a cell."""
        widest = max(text_width(label, SMALL - 1) for label in self.column_labels)
        return max(22.0, widest + 6) if widest <= 40 else 22.0

    @property
    def head(self) -> float:
        """The height of the column labels."""
        widest = max(text_width(label, SMALL - 1) for label in self.column_labels)
        return (widest if widest > 40 else SMALL) + 6 if any(self.column_labels) else 0.0

    @property
    def side(self) -> float:
        """The width of the row labels, including the name of the axis."""
        axes = [*self.tensor.coordinates][:1]
        return max(text_width(label, SMALL) for label in (*self.row_labels, *axes)) + 8 if axes else 0.0


def plan_diagram(resolved: ResolvedPlan) -> str:
    """Draw how parameters fold into tensors: a grid of slices for each tensor, coloured by the rule that fills them.

    Args:
        resolved: A resolved plan.

    Returns:
        The text of an SVG file, for light and dark pages.

    Examples:
        >>> import torch
        >>> from tensorfact import plan_by_shape
        >>> model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(2)))
        >>> picture = plan_diagram(plan_by_shape(model).resolve(model))
        >>> picture.startswith("<svg"), "matrices[8,8]" in picture
        (True, True)
    """
    canvas = Canvas()
    grids = [_grid(tensor) for tensor in resolved.tensors]
    nodes = [draw_tensor(Canvas(), 0, 0, grid.tensor.name, grid.tensor.modes) for grid in grids]
    centre = max((-box.left for box in nodes), default=0.0)
    left = centre + max((box.right for box in nodes), default=0.0) + 30
    side = max((grid.side for grid in grids), default=0.0)
    y = 0.0
    for _, group in itertools.groupby(zip(grids, nodes, strict=True), key=lambda pair: pair[0].tensor.group):
        pairs = list(group)
        rules = list(dict.fromkeys(view.rule for grid, _ in pairs for view in grid.tensor.views))
        colours = {rule: PALETTE[k % len(PALETTE)] for k, rule in enumerate(rules)}
        for grid, node in pairs:
            y = _draw_row(canvas, grid, node, colours, (centre, left + side), y) + _BETWEEN
        y = _draw_key(canvas, colours, left + side, y - 14) + 1.5 * _BETWEEN
    names = ", ".join(grid.tensor.name for grid in grids)
    return canvas.svg(f"How parameters fold into the tensors {names}")


# -------------------------------------------------------------------------------------------------------------- cells


def _grid(tensor: TensorGroup) -> _Grid:
    """Lay out a tensor's slices: the first stack axis down, all others across."""
    axes = list(tensor.coordinates.values())
    rows = _shortened([(c,) for c in axes[0]] if axes else [()], _ROWS)
    columns = _shortened(list(itertools.product(*axes[1:])), _COLUMNS)
    filled: dict[SliceCoordinates, tuple[Rule, ...]] = {}
    for view in tensor.views:
        for place in _places(view.parameter, view.rule, list(tensor.coordinates)):
            filled[place] = tuple(dict.fromkeys((*filled.get(place, ()), view.rule)))
    return _Grid(tensor, rows, columns, filled)


def _places(parameter: str, rule: Rule, axes: Sequence[str]) -> Iterator[SliceCoordinates]:
    """Yield the slices that one parameter fills."""
    known = {**rule.fixed, **(rule.match(parameter) or {})}
    listed = rule.listed
    yield from itertools.product(
        *([c for c in listed[axis] if c is not None] if axis in listed else [known[axis]] for axis in axes)
    )


def _shortened(places: Sequence[SliceCoordinates], most: int) -> tuple[SliceCoordinates | None, ...]:
    if len(places) <= most:
        return tuple(places)
    return (*places[: most - _LAST - 1], None, *places[-_LAST:])


def _spell(place: SliceCoordinates | None, elided: str) -> str:
    return elided if place is None else " ".join(map(str, place))


# ------------------------------------------------------------------------------------------------------------ drawing


def _draw_row(
    canvas: Canvas, grid: _Grid, node: Box, colours: Mapping[Rule, str], xs: tuple[float, float], y: float
) -> float:
    """Draw the node of a tensor with its grid to the right, and return the y at which they end.

    Args:
        canvas: The canvas to draw on.
        grid: The slices.
        node: The box of the tensor's node, its centre at (0, 0).
        colours: The colour of every rule.
        xs: The x of the centres of all nodes, and the left edge of all grids.
        y: The top of the row.
    """
    axes = list(grid.tensor.coordinates)
    head = grid.head + (SMALL + 6 if len(axes) > 1 else 0.0)
    high = head + len(grid.rows) * (_HIGH + _GAP)
    node_high = node.bottom - node.top
    top = y + max(0.0, (node_high - high) / 2)
    middle = top + head + (high - head) / 2
    centre = max(y - node.top, middle - (node.top + node.bottom) / 2)
    draw_tensor(canvas, xs[0], centre, grid.tensor.name, grid.tensor.modes)
    _draw_labels(canvas, grid, xs[1], top, head)
    for (i, row), (j, column) in itertools.product(enumerate(grid.rows), enumerate(grid.columns)):
        if row is None or column is None:
            continue
        rules = grid.filled.get((*row, *column), ())
        x, cell = xs[1] + j * (grid.width + _GAP), top + head + i * (_HIGH + _GAP)
        for k, rule in enumerate(rules):
            step = grid.width / len(rules)
            canvas.rect(Box(x + k * step, cell, x + (k + 1) * step, cell + _HIGH), "tf-cell", 2.0, colours[rule])
    return max(top + high, centre + node.bottom)


def _draw_labels(canvas: Canvas, grid: _Grid, x: float, y: float, head: float) -> None:
    """Draw the names of the axes and the labels of rows and columns."""
    axes = list(grid.tensor.coordinates)
    width = len(grid.columns) * (grid.width + _GAP) - _GAP
    if len(axes) > 1:
        canvas.text(x + width / 2, y + SMALL / 2, " ".join(axes[1:]), "tf-stack-fill", SMALL)
    if axes:
        canvas.text(x - 8, y + head - SMALL / 2 - 5, axes[0], "tf-stack-fill", SMALL, "end")
    for i, label in enumerate(grid.row_labels):
        canvas.text(x - 8, y + head + i * (_HIGH + _GAP) + _HIGH / 2, label, "tf-muted", SMALL, "end")
    upright = grid.head > SMALL + 6
    for j, label in enumerate(grid.column_labels):
        centre = x + j * (grid.width + _GAP) + grid.width / 2
        if upright:
            canvas.text(centre, y + head - 5, label, "tf-muted", SMALL - 1, "start", upright=True)
        else:
            canvas.text(centre, y + head - SMALL / 2 - 5, label, "tf-muted", SMALL - 1)


def _draw_key(canvas: Canvas, colours: Mapping[Rule, str], x: float, y: float) -> float:
    """Draw the key of rule colours, and return the y at which it ends."""
    shown = list(colours)[:_KEYS]
    pattern = x + 20 + max(text_width(rule.param) for rule in shown) + 18
    for rule in shown:
        canvas.rect(Box.around(x + 6, y, 12, 12), "tf-cell", 2.0, colours[rule])
        canvas.text(x + 20, y, rule.param, "", TEXT, "start")
        canvas.text(pattern, y, rule.pattern, "tf-muted", TEXT, "start")
        y += 19
    if more := len(colours) - len(shown):
        canvas.text(x + 20, y, f"and {more} more", "tf-muted", TEXT, "start")
        y += 19
    return y - 19

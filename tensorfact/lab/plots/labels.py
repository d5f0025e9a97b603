"""Labels beside the lines and points that they name, in place of a legend."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from ...drawing.svg import Box
from .placement import Array, nearest, place, spread
from .style import SMALL, short

_DARKER = 0.7
"""Labels have the colour of their series, darker, so that orange and sky blue are readable on white."""

_AIR = 1.5
"""Pixels that are kept free around a label."""

_LEADER = 14.0
"""A label that is farther away from its point, in pixels, gets a line to it."""

_STEP = 4.0
"""Distance of the points that stand for a line, in pixels."""


class Label(NamedTuple):
    """A label of a point, or of the end of a line.

    Args:
        text: The label.
        x: Position of the point; None for a line across the axes, which is labelled at its right end.
        y: Position of the point.
        colour: Colour of the series.
    """

    text: str
    x: float | None
    y: float
    colour: str


def label_directly(axes: Axes, labels: Sequence[Label], *, ends: bool = False) -> None:
    """Write labels beside what they name, so that they do not overlap. Call it when everything else is drawn.

    Args:
        axes: The axes.
        labels: The labels.
        ends: Whether these are the right ends of lines: the axes get room for the labels on the right.
    """
    if not labels:
        return
    axes.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]  # sets the size of the axes
    sizes = numpy.array([_size(axes, label.text) for label in labels])
    if ends:
        _make_room(axes, max(label.x for label in labels if label.x is not None), float(sizes[:, 0].max()))
    frame = Box(axes.bbox.x0, axes.bbox.y0, axes.bbox.x1, axes.bbox.y1)
    anchors = numpy.array([_anchor(axes, label, size, frame) for label, size in zip(labels, sizes, strict=True)])
    column = [at for at, (x, _) in enumerate(anchors) if ends and x > anchors[:, 0].max() - 2]
    boxes = _column(anchors[column], sizes[column], frame)
    rest = [at for at in range(len(labels)) if at not in column]
    placed = place(anchors[rest], sizes[rest], _drawn(axes), boxes, frame)
    for at, box in zip([*column, *rest], [*boxes, *placed], strict=True):
        _write(axes, labels[at], anchors[at], box)


def _size(axes: Axes, text: str) -> tuple[float, float]:
    """Return the width and height of a label in pixels, with the air around it."""
    probe = axes.text(0.5, 0.5, short(text), transform=axes.transAxes, fontsize=SMALL)
    extent = probe.get_window_extent()
    probe.remove()
    return extent.width + 2 * _AIR, extent.height + 2 * _AIR


def _make_room(axes: Axes, last: float, width: float) -> None:
    """Extend the x axis to the right of the data for labels; ticks and the axis itself end with the data."""
    scale = axes.xaxis.get_transform()
    low, high = axes.get_xlim()
    for minor in (False, True):
        axes.set_xticks([tick for tick in axes.get_xticks(minor=minor) if low <= tick <= high], minor=minor)
    start, end = scale.transform([low, last])
    share = min((width + 14) / axes.bbox.width, 0.6)
    (right,) = scale.inverted().transform([(end - share * start) / (1 - share)])
    axes.set_xlim(low, max(high, float(right)))
    end_with_data(axes, high)


def end_with_data(axes: Axes, last: float) -> None:
    """End the x axis and the grid lines where the data end; what follows is room for labels.

    Args:
        axes: The axes, whose limits are set.
        last: The right end of the data.
    """
    low, high = axes.get_xlim()
    axes.spines.bottom.set_bounds(low, last)
    if high > last:  # above the grid, below everything else
        axes.axvspan(last, high, facecolor=axes.get_facecolor(), edgecolor="none", zorder=0.6)


def _anchor(axes: Axes, label: Label, size: Array, frame: Box) -> tuple[float, float]:
    """Return the point that a label names, in pixels."""
    x, y = axes.transData.transform((axes.get_xlim()[1] if label.x is None else label.x, label.y))
    return (frame.right - size[0] / 2 - 1 if label.x is None else float(x)), float(y)


def _column(anchors: Array, sizes: Array, frame: Box) -> list[Box]:
    """Return the boxes of labels to the right of points that lie above each other."""
    if not len(anchors):
        return []
    high = float(sizes[:, 1].max())
    centres = spread(anchors[:, 1].tolist(), high, frame.top + high / 2, frame.bottom - high / 2)
    return [
        Box.around(float(x) + 8 + float(width) / 2, centre, float(width), high)
        for (x, _), (width, _), centre in zip(anchors, sizes, centres, strict=True)
    ]


def _drawn(axes: Axes) -> Array:
    """Return points on everything drawn in the axes, in pixels: along lines, and on markers."""
    found = [numpy.empty((0, 2))]
    for line in axes.lines:
        corners = numpy.asarray(line.get_transform().transform(line.get_xydata()))
        if line.get_linestyle() != "None":
            found.append(_along(corners))
        if line.get_marker() not in ("None", "", None):
            reach = _pixels(line, float(line.get_markersize()) / 2)
            steps = (-0.8 * reach, 0.0, 0.8 * reach)
            found.extend(corners + numpy.array(step) for step in itertools.product(steps, steps))
    for bars in axes.collections:
        segments = bars.get_paths()
        found.extend(_along(axes.transData.transform(segment.vertices)) for segment in segments)
    return numpy.concatenate(found)


def _pixels(line: Line2D, points: float) -> float:
    return points * line.get_figure(root=True).dpi / 72  # type: ignore[union-attr]


def _along(corners: Array) -> Array:
    """Return points along a line through some corners, a few pixels apart."""
    pieces = [corners[:1]]
    for start, end in itertools.pairwise(corners):
        count = max(int(numpy.hypot(*(end - start)) / _STEP), 1)
        pieces.append(start + (end - start) * numpy.linspace(0, 1, count + 1)[1:, None])
    return numpy.concatenate(pieces)


def _write(axes: Axes, label: Label, anchor: Array, box: Box) -> None:
    """Write a label into its box, with a thin line to its point if that is not beside it."""
    x, y = map(float, anchor)
    end = nearest(box, x, y)
    to_points = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    far = numpy.hypot(end[0] - x, end[1] - y) > _LEADER and label.x is not None
    reach = ((end[0] - box.left) / (box.right - box.left), (end[1] - box.top) / (box.bottom - box.top))
    red, green, blue = (_DARKER * part for part in to_rgb(label.colour))
    leader = {"arrowstyle": "-", "color": label.colour, "linewidth": 0.7, "relpos": reach, "shrinkA": 0, "shrinkB": 4}
    axes.annotate(
        short(label.text),
        xy=tuple(axes.transData.inverted().transform((x, y))),
        xytext=((box.left + _AIR - x) * to_points, ((box.top + box.bottom) / 2 - y) * to_points),
        textcoords="offset points",
        fontsize=SMALL,
        color=(red, green, blue),
        verticalalignment="center",
        arrowprops=leader if far else None,
        path_effects=[withStroke(linewidth=2, foreground="white")],
        annotation_clip=False,
    ).set_in_layout(False)

"""Where labels stand, as geometry: apart from each other, near what they name, off lines and markers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from ...drawing.svg import Box

Array = NDArray[numpy.float64]

_AROUND = [(a / 2, b / 2) for a in range(-2, 3) for b in range(-2, 3) if 2 in (abs(a), abs(b))]
"""The sides and corners of a point at which a label may stand, and the places between them."""

_DISTANCES = (8.0, 13.0, 21.0, 31.0, 43.0, 57.0, 73.0)
"""Distances of a label from its point, in pixels."""

_OUTSIDE, _LABEL, _POINT, _LEADER, _PIXEL, _TURN = 1000.0, 200.0, 4.0, 15.0, 0.5, 1.0
"""Costs: outside the frame, on a label, on a point of a line or marker, a leader across a label, a pixel of distance,
not to the right of the point; above is better than below."""

_ROUNDS = 6
"""How often every label may move once the others stand."""


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return the positions nearest to those wanted (least squares) that keep a gap, in the order of those wanted.

    Without room for the gap, the positions are spread evenly.

    Args:
        wanted: Positions wanted.
        gap: Smallest distance of two positions.
        low: Smallest position.
        high: Largest position.

    Examples:
        >>> spread([0.0, 10.0, 10.5], gap=2.0, low=0.0, high=20.0)
        [0.0, 9.25, 11.25]
    """
    last = max(len(wanted) - 1, 1)
    gap = min(gap, (high - low) / last)
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    blocks: list[tuple[float, int]] = []  # the mean of neighbours that touch, and their number; gaps subtracted
    for rank, at in enumerate(order):
        mean, count = wanted[at] - rank * gap, 1
        while blocks and blocks[-1][0] >= mean:
            other, more = blocks.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        blocks.append((mean, count))
    found = [0.0] * len(wanted)
    means = itertools.chain.from_iterable([mean] * count for mean, count in blocks)
    for rank, (at, mean) in enumerate(zip(order, means, strict=True)):
        found[at] = min(max(mean, low), high - last * gap) + rank * gap
    return found


def place(anchors: Array, sizes: Array, obstacles: Array, taken: Sequence[Box], frame: Box) -> list[Box]:
    """Return a place for every label: near its point, off what is drawn, and off the other labels where there is room.

    Args:
        anchors: The points to label, (label, 2), in pixels.
        sizes: Widths and heights of the labels, (label, 2).
        obstacles: Points on lines and markers, (point, 2).
        taken: Boxes of labels that stand already.
        frame: Where labels may stand.
    """
    candidates = [_candidates(anchor, size) for anchor, size in zip(anchors, sizes, strict=True)]
    alone = [_alone(boxes, anchor, obstacles, frame) for boxes, anchor in zip(candidates, anchors, strict=True)]
    chosen: dict[int, Array] = {}
    fixed = [numpy.array([box.left, box.top, box.right, box.bottom]) for box in taken]
    for _ in range(_ROUNDS):
        before = {at: box.tolist() for at, box in chosen.items()}
        for at, boxes in enumerate(candidates):
            others = [*fixed, *(box for other, box in chosen.items() if other != at)]
            costs = alone[at] + _among(boxes, anchors[at], numpy.array(others).reshape(-1, 4))
            chosen[at] = boxes[int(costs.argmin())]
        if {at: box.tolist() for at, box in chosen.items()} == before:
            break
    return [Box(*map(float, chosen[at])) for at in range(len(candidates))]


def nearest(box: Box, x: float, y: float) -> tuple[float, float]:
    """Return the point of a box that is nearest to a point."""
    return min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)


def _candidates(anchor: Array, size: Array) -> Array:
    """Return the boxes at which a label may stand, (candidate, 4)."""
    around, distances = numpy.array(_AROUND), numpy.array(_DISTANCES)
    centres = anchor + around[None] * (size / 2 + distances[:, None, None])
    corners = numpy.concatenate([centres - size / 2, centres + size / 2], axis=-1)
    return corners.reshape(-1, 4)


def _alone(boxes: Array, anchor: Array, obstacles: Array, frame: Box) -> Array:
    """Return what each candidate costs, whatever the other labels do."""
    inside = ((obstacles[None] > boxes[:, None, :2]) & (obstacles[None] < boxes[:, None, 2:])).all(-1).sum(1)
    out = (boxes[:, 0] < frame.left) | (boxes[:, 1] < frame.top) | (boxes[:, 2] > frame.right)
    out |= boxes[:, 3] > frame.bottom
    turned = numpy.tile(numpy.array([1 - a + abs(b) - b / 10 for a, b in _AROUND]), len(_DISTANCES))
    away = numpy.repeat(numpy.array(_DISTANCES), len(_AROUND))
    costs: Array = _OUTSIDE * out + _POINT * inside + _TURN * turned + _PIXEL * away
    return costs


def _among(boxes: Array, anchor: Array, others: Array) -> Array:
    """Return what each candidate costs beside other labels, (label, 4)."""
    low = numpy.maximum(boxes[:, None, :2], others[None, :, :2])
    high = numpy.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = numpy.clip(high - low, 0, None).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    ends = numpy.clip(anchor, boxes[:, :2], boxes[:, 2:])
    steps = numpy.linspace(0.1, 1.0, 8)[:, None, None]
    leaders = anchor + steps * (ends - anchor)[None]  # (step, candidate, 2)
    crossed = (leaders[:, :, None] > others[None, None, :, :2]) & (leaders[:, :, None] < others[None, None, :, 2:])
    covered = _LABEL * ((shared > 0) + shared / area)
    costs: Array = (covered + _LEADER * crossed.all(-1).any(0)).sum(1)
    return costs

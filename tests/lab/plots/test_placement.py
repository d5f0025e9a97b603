"""Labels keep their distance: positions on a line, and boxes beside points."""

from __future__ import annotations

import itertools

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.drawing.svg import Box
from tensorfact.lab.plots.placement import nearest, place, spread

FRAME = Box(0, 0, 600, 400)
NOTHING = numpy.empty((0, 2))

positions = st.lists(st.floats(-50, 150), max_size=12)


@given(positions, st.floats(0.5, 20))
def test_positions_keep_the_gap_the_order_and_the_bounds(wanted: list[float], gap: float) -> None:
    found = spread(wanted, gap, 0, 100)
    room = min(gap, 100 / max(len(wanted) - 1, 1))
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    for one, other in itertools.pairwise(order):
        assert found[other] - found[one] >= room - 1e-9
    assert all(-1e-9 <= value <= 100 + 1e-9 for value in found)


@given(positions)
def test_positions_that_are_apart_stay(wanted: list[float]) -> None:
    apart = sorted({round(value) for value in wanted if 0 <= value <= 100})
    assert spread(list(map(float, apart)), 1.0, 0, 100) == pytest.approx(apart)


def test_positions_move_as_little_as_they_can() -> None:
    assert spread([50, 50], 10, 0, 100) == [45, 55]
    assert spread([98, 99, 100], 10, 0, 100) == [80, 90, 100]
    assert spread([], 10, 0, 100) == []


@given(st.lists(st.tuples(st.floats(60, 540), st.floats(40, 360)), min_size=1, max_size=8), st.integers(0, 99))
def test_labels_stand_in_the_frame_and_apart(points: list[tuple[float, float]], seed: int) -> None:
    draw = numpy.random.default_rng(seed)
    sizes = numpy.stack([draw.uniform(20, 100, len(points)), numpy.full(len(points), 14.0)], axis=1)
    boxes = place(numpy.array(points), sizes, NOTHING, [], FRAME)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    for box, (width, height) in zip(boxes, sizes, strict=True):
        assert (box.right - box.left, box.bottom - box.top) == pytest.approx((width, height))
        assert box.left >= FRAME.left
        assert box.right <= FRAME.right
        assert box.top >= FRAME.top
        assert box.bottom <= FRAME.bottom


def test_a_label_stands_beside_its_point_and_off_lines_and_other_labels() -> None:
    point, size = numpy.array([[300.0, 200.0]]), numpy.array([[60.0, 14.0]])
    (right,) = place(point, size, NOTHING, [], FRAME)
    assert right.left > 300
    assert right.top < 200 < right.bottom, "on the right where nothing is"
    (moved,) = place(point, size, NOTHING, [right], FRAME)
    assert not moved.overlaps(right)
    line = numpy.stack([numpy.arange(300.0, 600.0, 4), numpy.full(75, 200.0)], axis=1)
    (off,) = place(point, size, line, [], FRAME)
    assert not ((line > (off.left, off.top)) & (line < (off.right, off.bottom))).all(1).any()
    (inside,) = place(numpy.array([[590.0, 200.0]]), size, NOTHING, [], FRAME)
    assert inside.right <= 590


def test_the_nearest_point_of_a_box() -> None:
    box = Box(0, 0, 10, 4)
    assert nearest(box, 5, 9) == (5, 4)
    assert nearest(box, -3, 2) == (0, 2)
    assert nearest(box, 5, 2) == (5, 2)

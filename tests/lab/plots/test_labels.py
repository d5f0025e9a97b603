"""Labels in pictures: at the ends of their lines, apart from each other, inside the axes."""

from __future__ import annotations

import itertools

import pytest
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from tensorfact.lab.plots import Label, canvas, label_directly, log_axis, look


def written(axes: Axes) -> dict[str, Bbox]:
    """Return where the labels stand, in pixels, without the lines to their points."""
    axes.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]
    found = [text for text in axes.texts if isinstance(text, Annotation)]
    return {text.get_text(): Text.get_window_extent(text) for text in found}


def apart(boxes: dict[str, Bbox]) -> bool:
    return not any(one.overlaps(other) for one, other in itertools.combinations(boxes.values(), 2))


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("count", [1, 6, 14])
def test_lines_that_end_together_are_labelled_in_a_column(count: int, log: bool) -> None:
    _, (axes,) = canvas([4.0], width=6)
    labels = []
    for at in range(count):
        values = [1, 2 + 0.001 * at, 5 + 0.002 * at]
        axes.plot([1, 10, 100], values, **look(at))
        labels.append(Label(f"method {at}", 100, values[-1], look(at)["color"]))
    if log:
        log_axis(axes, "parameters")
    label_directly(axes, labels, ends=True)
    boxes = written(axes)
    assert len(boxes) == count
    assert apart(boxes)
    end = axes.transData.transform((100, 5))[0]
    for box in boxes.values():
        assert end < box.x0
        assert box.x1 <= axes.bbox.x1 + 1
        assert axes.bbox.y0 <= box.y0
        assert box.y1 <= axes.bbox.y1
    centres = [boxes[label.text].y0 for label in labels]
    assert centres == sorted(centres), "in the order of the lines"


def test_ticks_end_with_the_data() -> None:
    _, (axes,) = canvas([3.0], width=5)
    axes.plot([1, 2, 3, 4], [1, 2, 3, 4])
    label_directly(axes, [Label("a rather long name", 4, 4, "black")], ends=True)
    assert max(axes.get_xticks()) < 4.5
    assert axes.get_xlim()[1] > 4.5
    [cover] = axes.patches  # over the grid lines beside the data
    assert cover.get_extents().x0 >= axes.transData.transform((4, 0))[0]
    assert cover.zorder < axes.lines[0].zorder


def test_points_are_labelled_apart_and_a_line_across_at_its_end() -> None:
    _, (axes,) = canvas([4.0], width=8)
    labels = []
    for at in range(10):
        x, y = 1000 * 1.3**at, 90 + at % 3
        axes.errorbar(x, y, 0.5, **look(at))
        labels.append(Label(f"method {at}", x, y, look(at)["color"]))
    axes.axhline(85, color="black")
    labels.append(Label("linear probe", None, 85, "black"))
    log_axis(axes, "parameters")
    label_directly(axes, labels)
    boxes = written(axes)
    assert apart(boxes)
    probe = boxes["linear probe"]
    assert probe.x1 > axes.bbox.x1 - 10
    line = axes.transData.transform((1000, 85))[1]
    assert not probe.y0 < line < probe.y1


def test_no_label_changes_nothing() -> None:
    _, (axes,) = canvas([2.0])
    label_directly(axes, [])
    assert not axes.texts

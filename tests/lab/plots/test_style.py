"""The style of pictures: series that can be told apart, files that repeat, and settings of matplotlib left alone."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest

from tensorfact.errors import CheckpointError, TrainingError
from tensorfact.lab.plots import (
    Label,
    PanelBlock,
    canvas,
    label_directly,
    log_axis,
    look,
    panels,
    picture_file,
    save,
    short,
    widen,
)
from tensorfact.lab.plots.style import COLOURS, COLOURS_ON_DARK, INK, MARKERS
from tests.helpers import refused

ASSETS = Path(__file__).parents[3] / "tensorfact" / "lab" / "report" / "assets"


def settings() -> dict[str, object]:
    """Return matplotlib's global settings but the backend, which it chooses when it is asked."""
    return {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}


def test_series_differ_and_the_page_has_the_same_colours_and_markers() -> None:
    every = [tuple(look(index).values()) for index in range(len(COLOURS) * len(MARKERS))]
    assert len(set(every)) == len(every)
    assert len(COLOURS_ON_DARK) == len(COLOURS)
    for text in (path.read_text() for path in ASSETS.iterdir()):
        assert not any(colour in text for colour in COLOURS if colour != INK), "the page gets its colours from here"


@pytest.mark.parametrize("name", ["a.png", "a.svg", "b.SVG"])
def test_a_picture_is_the_same_file_every_time(name: str, tmp_path: Path) -> None:
    before = settings()
    files = []
    for _ in range(2):
        figure, (axes,) = canvas([2.0], width=4)
        axes.plot([1, 10], [1, 2], **look(0))
        log_axis(axes, "parameters")
        label_directly(axes, [Label("tucker", 10, 2, look(0)["color"])], ends=True)
        save(figure, tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert files[0].startswith(b"\x89PNG" if name == "a.png" else b"<?xml")
    assert settings() == before


def test_panels_stand_in_rows_under_the_title_of_their_block() -> None:
    figure, every = panels([PanelBlock("one", "a note", 5, 1.5), PanelBlock("two", "", 1, 1.5)], columns=4)
    assert [len(block) for block in every] == [5, 1]
    assert len(figure.axes) == 6
    assert [part.get_suptitle() for part in figure.subfigs] == ["one\na note", "two"]


def test_a_name_is_one_short_line_without_mathematics() -> None:
    assert short("a\nb  $x$") == r"a b \$x\$"
    assert len(short("x" * 50)) == 36


@pytest.mark.parametrize("wrong", ["curve.pdf", "curve", "curve.png.txt"])
def test_another_kind_of_file_is_refused(wrong: str) -> None:
    with refused(TrainingError, "plot: path", ".png or .svg", wrong, 'Fix: path="curve'):
        picture_file(wrong, "plot: path", TrainingError)
    with refused(TrainingError, "plot: path", "a path"):
        picture_file(5, "plot: path", TrainingError)


def test_a_folder_that_does_not_exist_is_said(tmp_path: Path) -> None:
    figure, _ = canvas([1.0])
    with pytest.raises(CheckpointError):
        save(figure, tmp_path / "missing" / "a.png")


@pytest.mark.parametrize(("ends", "widened"), [((90.0, 90.2), (88.1, 92.1)), ((10.0, 90.0), (10.0, 90.0))])
def test_a_short_axis_is_widened(ends: tuple[float, float], widened: tuple[float, float]) -> None:
    _, (axes,) = canvas([3.0])
    axes.set_ylim(*ends)
    widen(axes, 4.0)
    assert axes.get_ylim() == pytest.approx(widened)

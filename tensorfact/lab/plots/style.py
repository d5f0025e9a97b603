"""Style of all pictures: colours, markers, fonts, axes and files. No global setting of matplotlib is changed."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from ...common.aliases import Options
from ...common.checks import ErrorClass, file_path
from ...storage.writing import write_bytes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1f2430", "#8a8f98")
"""Okabe and Ito's palette, which colour-blind readers can tell apart, with grey for yellow."""

COLOURS_ON_DARK = ("#4a9fdc", "#f07a2a", "#1fbf90", "#dd93ba", "#f0b13c", "#8fd0f7", "#e1e4ec", "#8a919d")
"""The same hues on a dark background, as the page of a sweep may have."""

MARKERS = "os^DvPX"
"""Series cycle through 8 colours and 7 markers, which gives 56 distinct pairs."""

LINES = ("-", "--", "-.", ":")
"""Line styles: another one for every eight series."""

INK, FAINT, GRID = "#1f2430", "#8a8f98", "#e4e6eb"
"""Colours of text, of axes and of grid lines."""

SMALL, NORMAL, LARGE = 8.5, 9.5, 11.0
"""Font sizes in points: labels and ticks, names of axes, titles."""

_FILES = (".png", ".svg")

_LONGEST = 36
"""The most characters of a name in a picture."""


class PanelBlock(NamedTuple):
    """Panels of equal height under one title.

    Args:
        title: The title.
        note: A second line of the title; may be empty.
        panels: Number of panels.
        height: Height of a panel, in inches.
    """

    title: str
    note: str
    panels: int
    height: float


def look(index: int) -> Options:
    """Return the colour, marker and line style of a series, as keyword arguments of matplotlib.

    Args:
        index: Number of the series.

    Examples:
        >>> look(0)
        {'color': '#0072b2', 'marker': 'o', 'linestyle': '-'}
    """
    line = LINES[index // len(COLOURS) % len(LINES)]
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "linestyle": line}


def canvas(heights: Sequence[float], *, width: float = 9.0) -> tuple[Figure, list[Axes]]:
    """Return an empty figure, and its axes below each other.

    Args:
        heights: Height of each axes, in inches.
        width: Width of the figure, in inches.
    """
    figure = _figure(width, sum(heights))
    return figure, _styled(figure.subplots(len(heights), squeeze=False, height_ratios=heights))


def panels(blocks: Sequence[PanelBlock], columns: int) -> tuple[Figure, list[list[Axes]]]:
    """Return an empty figure of titled blocks below each other, and the panels of each block, row by row.

    Args:
        blocks: The blocks.
        columns: Number of panels in a row.
    """
    heights = [block.height * math.ceil(block.panels / columns) + 0.35 for block in blocks]
    figure = _figure(3.0 + 2.2 * columns, sum(heights))
    found = []
    for part, block in zip(figure.subfigures(len(blocks), squeeze=False, height_ratios=heights), blocks, strict=True):
        part[0].suptitle(_lines(block.title, block.note), x=0.01, ha="left", fontsize=LARGE, color=INK)
        every = _styled(part[0].subplots(math.ceil(block.panels / columns), columns, squeeze=False))
        for axes in every[block.panels :]:
            axes.remove()
        found.append(every[: block.panels])
    return figure, found


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    return figure


def _styled(grid: Iterable[Iterable[Axes]]) -> list[Axes]:
    """Return the axes of a grid, row by row, in the style of all pictures."""
    every = [axes for row in grid for axes in row]
    for axes in every:
        axes.set_facecolor("white")
        axes.grid(visible=True, which="major", color=GRID, linewidth=0.8, linestyle="-")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(which="both", color=FAINT, labelcolor=INK, labelsize=SMALL)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set(color=INK, fontsize=NORMAL)
    return every


def titled(axes: Axes, title: str, note: str = "") -> None:
    """Write a title above the axes, at their left end.

    Args:
        axes: The axes.
        title: The title.
        note: A second line, such as a warning.
    """
    axes.set_title(_lines(title, note), loc="left", fontsize=LARGE, color=INK)


def _lines(title: str, note: str) -> str:
    return f"{literal(title)}\n{literal(note)}" if note else literal(title)


def log_axis(axes: Axes, name: str) -> None:
    """Give the axes a logarithmic x axis with ticks such as `5 k`.

    Args:
        axes: The axes.
        name: Name of the axis.
    """
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(name)


def widen(axes: Axes, least: float) -> None:
    """Widen the y axis around its centre, if it is short.

    Args:
        axes: The axes.
        least: The least distance of its ends.
    """
    low, high = axes.get_ylim()
    if high - low < least:
        axes.set_ylim((low + high - least) / 2, (low + high + least) / 2)


def whole_ticks(axes: Axes) -> None:
    """Put the ticks of the x axis on whole numbers.

    Args:
        axes: The axes.
    """
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def literal(text: str) -> str:
    """Escape a text for matplotlib: one line, no math mode."""
    return " ".join(text.split()).replace("$", r"\$")


def short(text: str) -> str:
    """Escape a name for matplotlib, and cut it after 36 characters."""
    return literal(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…")


def picture_file(path: object, argument: str, kind: ErrorClass) -> Path:
    """Check that a value is a path of a picture that can be written, and return it.

    Args:
        path: The value to check.
        argument: Where the value was passed, as in `History.plot: path`.
        kind: Class of the error.

    Raises:
        TensorfactError: Of class `kind`, if the value is not a path that ends in .png or .svg.
    """
    found = file_path(path, argument, kind, example="curve.png")
    if found.suffix.lower() in _FILES:
        return found
    got, fix = f"{repr(found.suffix) if found.suffix else 'no ending'} in {found.name}", found.stem + ".png"
    if found.is_dir():
        got, fix = f"the folder {str(found)!r}", str(found / "curve.png")
    raise kind(argument, expected="a file that ends in .png or .svg", got=got, fix=f'path="{fix}"')


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically; equal figures give equal files.

    Args:
        figure: The figure.
        path: PNG or SVG file to write.

    Raises:
        CheckpointError: The file cannot be written.
    """
    picture, kind = io.BytesIO(), path.suffix.lower().removeprefix(".")
    with matplotlib.rc_context({"svg.hashsalt": "tensorfact"}):
        figure.savefig(picture, dpi=160, format=kind, metadata={"Date": None} if kind == "svg" else None)
    write_bytes(path, picture.getvalue())

"""Pictures of a sweep as PNG: accuracy against parameters and rank, by group, and by task."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from ...common.aliases import Options
from ...storage.writing import write_bytes
from .names import task_label
from .summary import Mean, PartSummary, RowSummary, Summary

COLOURS = ("#3f63c9", "#d9622b", "#14907a", "#b8419c", "#a67c00", "#2b93c9", "#c23b4b", "#6b7785")
MARKERS = "os^DvPX"
"""Rows cycle through 8 colours and 7 markers, which gives 56 distinct pairs; charts.js has the same lists."""


def draw_accuracy(summary: Summary) -> Figure | None:
    """Plot accuracy against parameters (log axis), with error bars over seeds; None if no row has a mean.

    A row that trains only the head is drawn as a horizontal line, since a log axis has no 0.
    """
    parts = [part for part in summary.parts if any(row.accuracy for row in part.rows)]

    def one(axes: Axes, part: PartSummary) -> None:
        for row in part.rows:
            if row.accuracy is None:
                continue
            mean, spread = 100 * row.accuracy.mean, 100 * (row.accuracy.spread or 0.0)
            if row.parameters:
                axes.errorbar(row.parameters, mean, spread, linestyle="", capsize=3, markersize=7, **look(row))
            else:
                axes.axhline(mean, linestyle="--", color=look(row)["color"], label=look(row)["label"])
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("trained parameters, excluding the head")
        axes.set_ylabel("mean test accuracy, %")

    return _figure(summary, parts, one)


def draw_ranks(summary: Summary) -> Figure | None:
    """Plot the accuracy by which options are chosen against the rank; None if no row has several ranks."""
    parts = [part for part in summary.parts if any(row.ranks for row in part.rows)]
    split = "test" if summary.note else "validation"

    def one(axes: Axes, part: PartSummary) -> None:
        ranks = sorted({point.rank for row in part.rows for point in row.ranks})
        for row in part.rows:
            if row.ranks:
                points = [p.rank for p in row.ranks], [100 * p.accuracy for p in row.ranks]
                axes.plot(*points, **look(row))
        axes.set_xscale("log", base=2)
        axes.set_xticks(ranks, list(map(str, ranks)))
        axes.set_xlabel("rank")
        axes.set_ylabel(f"mean {split} accuracy, best scale, %")

    return _figure(summary, parts, one)


def draw_groups(summary: Summary) -> Figure | None:
    """Plot the mean accuracy of each group, one bar per row; None if no part has two groups."""
    parts = [part for part in summary.parts if len(part.groups) > 1 and any(any(r.groups.values()) for r in part.rows)]

    def one(axes: Axes, part: PartSummary) -> None:
        rows = [row for row in part.rows if any(row.groups.values())]
        width = 0.84 / len(rows)
        for at, row in enumerate(rows):
            found = [(x, mean) for x, group in enumerate(part.groups) if (mean := row.groups[group])]
            places = [x + (at - (len(rows) - 1) / 2) * width for x, _ in found]
            heights, spreads = ([100 * (value or 0.0) for value in each] for each in _columns(found))
            style = look(row)
            bars: Options = {"color": style["color"], "label": style["label"], "ecolor": "#808080"}
            axes.bar(places, heights, 0.88 * width, yerr=spreads, hatch=HATCHES[row.style // 8 % 4], **bars)
        axes.set_xticks(range(len(part.groups)), part.groups)
        axes.set_ylabel("mean test accuracy, %")
        axes.grid(visible=False, axis="x")

    return _figure(summary, parts, one)


def draw_tasks(summary: Summary) -> Figure | None:
    """Plot the accuracy on every task, one marker per row; None if no part has several tasks and an accuracy."""
    parts = [
        part for part in summary.parts if len(part.tasks) > 1 and any(c.accuracy for r in part.rows for c in r.cells)
    ]

    def one(axes: Axes, part: PartSummary) -> None:
        for row in part.rows:
            found = [(at, cell.accuracy.mean) for at, cell in enumerate(row.cells) if cell.accuracy]
            axes.plot(
                [100 * value for _, value in found], [at for at, _ in found], linestyle="", alpha=0.85, **look(row)
            )
        axes.set_yticks(range(len(part.tasks)), [literal(task_label(task)) for task in part.tasks])
        axes.set_ylim(len(part.tasks) - 0.5, -0.5)
        axes.set_xlabel("test accuracy, %")

    return _figure(summary, parts, one, lambda part: 1.6 + 0.32 * len(part.tasks))


HATCHES = ("", "//", "..", "xx")


def look(row: RowSummary) -> Options:
    """Return the colour, marker and label of a row, as keyword arguments of matplotlib."""
    style = row.style
    return {"color": COLOURS[style % 8], "marker": MARKERS[style % 7], "label": literal(row.row.label)}


def literal(text: str) -> str:
    """Escape a text for matplotlib: one line, no math mode."""
    return " ".join(text.split()).replace("$", r"\$").lstrip("_")  # matplotlib hides labels with a leading `_`


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically.

    Args:
        figure: The figure.
        path: PNG file to write.

    Raises:
        CheckpointError: The file cannot be written.
    """
    picture = io.BytesIO()
    figure.savefig(picture, dpi=160, format="png")
    write_bytes(path, picture.getvalue())


def _columns(found: Sequence[tuple[float, Mean]]) -> tuple[list[float], list[float | None]]:
    return [mean.mean for _, mean in found], [mean.spread for _, mean in found]


def _figure(
    summary: Summary,
    parts: Sequence[PartSummary],
    one: Callable[[Axes, PartSummary], None],
    height: Callable[[PartSummary], float] = lambda part: 4.2,
) -> Figure | None:
    """Draw the parts below each other, with one legend outside that lists every row once."""
    if not parts:
        return None
    heights = [height(part) for part in parts]
    labels_of = {row.row.label for part in parts for row in part.rows}
    tall = max(sum(heights), 0.5 + 0.23 * len(labels_of))  # the legend needs 0.23 inches per row
    figure = Figure(figsize=(9, tall), layout="constrained")
    legend: dict[str, Artist] = {}
    all_axes = figure.subplots(len(parts), squeeze=False, height_ratios=heights)[:, 0]
    for axes, part in zip(all_axes, parts, strict=True):
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        one(axes, part)
        axes.margins(x=0.08, y=0.1)
        title = literal(part.part.title)
        axes.set_title(f"{title}\n({summary.note})" if summary.note else title, fontsize=10)
        handles, labels = axes.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    rows = {look(row)["label"]: row.style for part in parts for row in part.rows}
    order = sorted(legend, key=lambda label: rows[label])
    names = [label if len(label) <= 36 else f"{label[:35]}…" for label in order]
    figure.legend([legend[label] for label in order], names, loc="outside right upper", fontsize=9, frameon=False)
    return figure

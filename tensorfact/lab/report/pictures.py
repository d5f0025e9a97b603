"""Pictures of a sweep: accuracy against parameters and rank, by group, and by task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..plots import (
    Axes,
    Figure,
    Label,
    PanelBlock,
    canvas,
    label_directly,
    log_axis,
    look,
    panels,
    short,
    titled,
    widen,
)
from .names import task_label
from .summary import Mean, PartSummary, RowSummary, Summary

_PANELS = 4
"""The most panels beside each other."""


_LEAST_SPAN = 4.0
"""The fewest points of accuracy that an axis spans: of a single result, a shorter one would show noise."""


class Mark(NamedTuple):
    """What a picture of accuracy against parameters shows of one method.

    Args:
        label: Name of the method.
        parameters: Number of trained parameters; 0 is drawn as a line across, since a log axis has no 0.
        accuracy: Mean accuracy, 0 to 1, and its spread over seeds.
        style: Index of its colour and marker.
    """

    label: str
    parameters: float
    accuracy: Mean
    style: int


def draw_marks(axes: Axes, marks: Iterable[Mark], accuracy: str) -> list[Label]:
    """Draw accuracy against parameters (log axis), with error bars over seeds; return the labels to write.

    Args:
        axes: The axes.
        marks: The methods.
        accuracy: Name of the accuracy.
    """
    labels = []
    for mark in marks:
        style = {**look(mark.style), "linestyle": ""}
        mean, spread = 100 * mark.accuracy.mean, 100 * (mark.accuracy.spread or 0.0)
        if mark.parameters:
            axes.errorbar(mark.parameters, mean, spread, capsize=2.5, elinewidth=1.2, markersize=6.5, **style)
        else:
            axes.axhline(mean, linestyle="--", linewidth=1.4, color=style["color"])
        labels.append(Label(mark.label, mark.parameters or None, mean, style["color"]))
    log_axis(axes, "trained parameters, excluding the head")
    axes.set_ylabel(f"{accuracy}, %")
    axes.margins(x=0.08, y=0.1)
    widen(axes, _LEAST_SPAN)
    return labels


def draw_accuracy(summary: Summary) -> Figure | None:
    """Plot accuracy against parameters (log axis), with error bars over seeds; None if no row has a mean."""
    parts = [part for part in summary.parts if any(row.accuracy for row in part.rows)]

    def one(axes: Axes, part: PartSummary) -> list[Label]:
        rows = [(row, row.accuracy) for row in part.rows if row.accuracy]
        marks = (Mark(row.row.label, row.parameters or 0, accuracy, row.style) for row, accuracy in rows)
        return draw_marks(axes, marks, "mean test accuracy")

    return _figure(summary, parts, one)


def draw_ranks(summary: Summary) -> Figure | None:
    """Plot the accuracy by which options are chosen against the rank; None if no row has several ranks."""
    parts = [part for part in summary.parts if any(row.ranks for row in part.rows)]
    split = "test" if summary.note else "validation"

    def one(axes: Axes, part: PartSummary) -> list[Label]:
        labels = []
        for row in part.rows:
            if row.ranks:
                points = [(point.rank, 100 * point.accuracy) for point in row.ranks]
                axes.plot(*zip(*points, strict=True), **look(row.style))
                labels.append(Label(row.row.label, *points[-1], look(row.style)["color"]))
        ranks = sorted({point.rank for row in part.rows for point in row.ranks})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ranks, list(map(str, ranks)))
        axes.set_xticks([], minor=True)
        axes.set_xlabel("rank")
        axes.set_ylabel(f"mean {split} accuracy, best scale, %")
        axes.margins(y=0.1)
        return labels

    return _figure(summary, parts, one, ends=True)


def draw_groups(summary: Summary) -> Figure | None:
    """Plot the mean accuracy of each group in a panel of its own; None if no part has two groups."""
    parts = [part for part in summary.parts if len(part.groups) > 1 and any(any(r.groups.values()) for r in part.rows)]
    return _panels(
        summary, parts, lambda part: {group: [row.groups[group] for row in part.rows] for group in part.groups}
    )


def draw_tasks(summary: Summary) -> Figure | None:
    """Plot the accuracy on each task in a panel of its own; None if no part has several tasks and an accuracy."""
    parts = [
        part for part in summary.parts if len(part.tasks) > 1 and any(c.accuracy for r in part.rows for c in r.cells)
    ]

    def accuracies(part: PartSummary) -> dict[str, list[Mean | None]]:
        return {task_label(task): [row.cells[at].accuracy for row in part.rows] for at, task in enumerate(part.tasks)}

    return _panels(summary, parts, accuracies)


def _figure(
    summary: Summary,
    parts: Sequence[PartSummary],
    one: Callable[[Axes, PartSummary], list[Label]],
    *,
    ends: bool = False,
) -> Figure | None:
    """Draw the parts below each other; the labels are written when all axes have their size."""
    if not parts:
        return None
    figure, every = canvas([max(4.4, 1.0 + 0.2 * len(part.rows)) for part in parts])
    labels = [one(axes, part) for axes, part in zip(every, parts, strict=True)]
    for axes, part in zip(every, parts, strict=True):
        titled(axes, part.part.title, summary.note)
    for axes, own in zip(every, labels, strict=True):
        label_directly(axes, own, ends=ends)
    return figure


def _panels(
    summary: Summary,
    parts: Sequence[PartSummary],
    columns: Callable[[PartSummary], Mapping[str, Sequence[Mean | None]]],
) -> Figure | None:
    """Draw a panel for every column of accuracies: one line per row of the table, named at the left."""
    if not parts:
        return None
    of = [columns(part) for part in parts]
    wide = min(max(map(len, of)), _PANELS)
    blocks = [
        PanelBlock(part.part.title, summary.note, len(found), 0.9 + 0.19 * len(part.rows))
        for part, found in zip(parts, of, strict=True)
    ]
    figure, every = panels(blocks, wide)
    for part, found, own in zip(parts, of, every, strict=True):
        for at, (axes, (name, means)) in enumerate(zip(own, found.items(), strict=True)):
            _panel(axes, part.rows, means, named=at % wide == 0)
            titled(axes, name)
    return figure


def _panel(axes: Axes, rows: Sequence[RowSummary], means: Sequence[Mean | None], *, named: bool) -> None:
    """Draw the accuracy of every row, with its spread over seeds."""
    for y, (row, mean) in enumerate(zip(rows, means, strict=True)):
        if mean:
            style = {**look(row.style), "linestyle": ""}
            axes.errorbar(100 * mean.mean, y, xerr=100 * (mean.spread or 0.0), markersize=5, elinewidth=1.2, **style)
    names = [short(row.row.label) for row in rows]
    axes.set_yticks(range(len(rows)), names if named else [""] * len(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("test accuracy, %")

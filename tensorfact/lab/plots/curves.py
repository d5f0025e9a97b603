"""Curves of a training run: losses and validation accuracy against epochs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .labels import Label, end_with_data, label_directly
from .style import COLOURS, FAINT, canvas, titled, whole_ticks

_MARKED = 40
"""With more points than this, a curve has no markers."""


def training_curves(
    train_loss: Sequence[float], val_loss: Sequence[float | None], val_accuracy: Sequence[float | None], best: int
) -> Figure:
    """Plot losses, and below them the validation accuracy, against epochs; the best epoch is marked.

    Args:
        train_loss: Mean training loss of every epoch.
        val_loss: Validation loss of every epoch; None where it was not validated.
        val_accuracy: Validation accuracy of every epoch, 0 to 1; None where it was not validated.
        best: Index of the best epoch.
    """
    accuracies = _measured([None if value is None else 100 * value for value in val_accuracy])
    figure, (losses, *rest) = canvas((2.6, 2.2) if accuracies else (2.8,), width=7.0)
    ends = [_curve(losses, "training", list(enumerate(train_loss, 1)), 0, "o")]
    if measured := _measured(val_loss):
        ends.append(_curve(losses, "validation", measured, 1, "s"))
    titled(losses, "Loss")
    for axes in (losses, *rest):
        axes.set_xlim(0.5, len(train_loss) + 0.5)
        axes.margins(y=0.12)
        whole_ticks(axes)
    if accuracies:
        for axes in (losses, *rest):
            axes.axvline(best + 1, color=FAINT, linewidth=1, linestyle=":", zorder=1)
        _accuracy(rest[0], accuracies, best + 1)
    (rest or [losses])[-1].set_xlabel("epoch")
    label_directly(losses, ends, ends=True)
    for axes in rest:
        top = dict(accuracies)[best + 1]
        axes.set_xlim(losses.get_xlim())
        axes.set_xticks(losses.get_xticks())
        end_with_data(axes, len(train_loss) + 0.5)
        label_directly(axes, [Label(f"best: {top:.1f} %, epoch {best + 1}", best + 1, top, COLOURS[2])])
    return figure


def _measured(values: Sequence[float | None]) -> list[tuple[int, float]]:
    """Return the epochs that were validated, counted from 1, with their values."""
    return [(epoch, value) for epoch, value in enumerate(values, 1) if value is not None]


def _curve(axes: Axes, name: str, points: Sequence[tuple[int, float]], colour: int, marker: str) -> Label:
    """Draw a curve, and return the label of its end."""
    shown = marker if len(points) <= _MARKED else ""
    axes.plot(*zip(*points, strict=True), color=COLOURS[colour], marker=shown, markersize=4, linewidth=1.6)
    return Label(name, *points[-1], COLOURS[colour])


def _accuracy(axes: Axes, points: Sequence[tuple[int, float]], best: int) -> None:
    """Draw the validation accuracy, with a ring around the best epoch."""
    _curve(axes, "", points, 2, "^")
    axes.plot([best], [dict(points)[best]], "o", markersize=10, markerfacecolor="none", color=COLOURS[2])
    axes.margins(y=0.25)  # room for the label of the best epoch
    titled(axes, "Validation accuracy, %")

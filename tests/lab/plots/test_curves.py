"""Curves of a run: losses, accuracy and the best epoch, whatever was validated."""

from __future__ import annotations

import numpy
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tensorfact.lab.plots import training_curves


def texts(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def drawn(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in numpy.asarray(line.get_xydata())]


def test_both_losses_and_the_best_epoch_are_labelled() -> None:
    figure = training_curves([2.0, 1.0, 0.5], [2.1, 1.5, 1.6], [0.2, 0.75, 0.7], best=1)
    losses, accuracy = figure.axes
    assert texts(figure, 0) == ["training", "validation"]
    assert texts(figure, 1) == ["best: 75.0 %, epoch 2"]
    assert losses.get_xlim() == accuracy.get_xlim()
    assert list(accuracy.get_xticks()) == [1, 2, 3]
    assert drawn(losses.lines[-1]) == [(2, 0), (2, 1)], "the best epoch"
    assert drawn(accuracy.lines[1]) == [(1, 20), (2, 75), (3, 70)]


def test_only_validated_epochs_are_drawn() -> None:
    figure = training_curves([3.0, 2.0, 1.0], [None, 1.5, 1.0], [None, 0.5, 0.6], best=2)
    assert drawn(figure.axes[0].lines[1]) == [(2, 1.5), (3, 1.0)]
    assert drawn(figure.axes[1].lines[1]) == [(2, 50), (3, 60)]


@pytest.mark.parametrize("epochs", [1, 100])
def test_without_validation_there_is_one_curve(epochs: int) -> None:
    figure = training_curves([1 / (1 + at) for at in range(epochs)], [None] * epochs, [None] * epochs, epochs - 1)
    (axes,) = figure.axes
    assert texts(figure, 0) == ["training"]
    assert len(axes.lines) == 1
    assert all(float(tick).is_integer() for tick in axes.get_xticks())

"""Losses and accuracies of a training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from ...common.checks import AnyPath
from ...common.table import Table
from ...errors import TrainingError

if TYPE_CHECKING:
    from ..plots import Figure


Ties = Literal["loss", "first"]
"""Which of several epochs with the highest validation accuracy is the best: that of the lowest loss, or the first."""


@dataclasses.dataclass(frozen=True)
class Epoch:
    """Metrics of one epoch.

    Args:
        train_loss: Mean loss of the steps.
        val_loss: Mean loss on the validation split afterwards; None if the epoch was not validated.
        val_accuracy: Validation accuracy, 0 to 1; None if the epoch was not validated.
        seconds: Wall time of the epoch and its validation.
    """

    train_loss: float
    val_loss: float | None
    val_accuracy: float | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class History:
    """Metrics of every epoch of a training run. `print` shows the best and the last epoch as a table.

    Args:
        epochs: The epochs, in order.
        best_epoch: Index of the epoch whose parameters the model now holds, from 0; tables and pictures count from 1.
    """

    epochs: tuple[Epoch, ...]
    best_epoch: int

    @property
    def val_accuracy(self) -> float | None:
        """Validation accuracy of the parameters the model now holds, 0 to 1; None without validation."""
        return self.epochs[self.best_epoch].val_accuracy

    def table(self) -> Table:
        """Return all epochs as a table."""
        return self._table({index: "best" if index == self.best_epoch else "" for index in range(len(self.epochs))})

    def plot(self, path: AnyPath | None = None) -> Figure:
        """Plot losses and validation accuracy against epochs; the best epoch is marked.

        Args:
            path: PNG or SVG file to write; None: only return the figure.

        Returns:
            The matplotlib figure.

        Raises:
            TrainingError: The history has no epoch, or `path` does not end in .png or .svg.
            CheckpointError: The file cannot be written.

        Examples:
            >>> from tensorfact.lab.training import Epoch, History
            >>> history = History((Epoch(1.2, 1.0, 0.5, 0.1), Epoch(0.8, 0.9, 0.7, 0.1)), best_epoch=1)
            >>> [axes.get_title("left") for axes in history.plot().axes]
            ['Loss', 'Validation accuracy, %']
        """
        from ..plots import picture_file, save, training_curves

        file = None if path is None else picture_file(path, "History.plot: path", TrainingError)
        if not self.epochs:
            raise TrainingError("History.plot: the history has no epoch", fix="history = fit(model, train, val)")
        figure = training_curves(
            [epoch.train_loss for epoch in self.epochs],
            [epoch.val_loss for epoch in self.epochs],
            [epoch.val_accuracy for epoch in self.epochs],
            self.best_epoch,
        )
        if file is not None:
            save(figure, file)
        return figure

    def __str__(self) -> str:
        number, seconds = len(self.epochs), sum(epoch.seconds for epoch in self.epochs)
        title = f"{number} epoch{'s' * (number != 1)} in {seconds:,.1f} s"
        names = {self.best_epoch: "best", number - 1: "last"} if number else {}
        if number and self.best_epoch == number - 1:
            names = {number - 1: "best, last"}
        return f"{title}\n{self._table(names)}" if number else title

    def _table(self, names: Mapping[int, str]) -> Table:
        """Return some of the epochs as a table, each with a name in the first column."""
        rows = []
        for index, name in names.items():
            epoch = self.epochs[index]
            accuracy = None if epoch.val_accuracy is None else 100 * epoch.val_accuracy
            numbers = (f"{epoch.train_loss:.4f}", _cell(epoch.val_loss, 4), _cell(accuracy, 1), f"{epoch.seconds:.1f}")
            rows.append((name, str(index + 1), *numbers))
        return Table(("", "epoch", "train loss", "val loss", "val accuracy %", "seconds"), tuple(rows))

    def followed_by(self, epoch: Epoch, ties: Ties = "loss", since: int = 0) -> History:
        """Return the history with one more epoch.

        The best epoch is one with the highest validation accuracy; without validation, it is the last. Before the epoch
        `since` it is the last too.

        Args:
            epoch: The epoch to append.
            ties: Which of several epochs with the highest accuracy is the best.
            since: Index of the first epoch that may be the best.
        """
        epochs = (*self.epochs, epoch)
        best = _standing(self.epochs[self.best_epoch], ties) if len(self.epochs) > since else None
        found = _standing(epoch, ties)
        better = best is None or (found is not None and found > best)
        return History(epochs, len(epochs) - 1 if better else self.best_epoch)


def _standing(epoch: Epoch, ties: Ties) -> tuple[float, ...] | None:
    """Return the numbers by which epochs are compared, the first before the second; None without validation."""
    if epoch.val_accuracy is None or epoch.val_loss is None:
        return None
    return (epoch.val_accuracy, -epoch.val_loss) if ties == "loss" else (epoch.val_accuracy,)


def _cell(value: float | None, digits: int) -> str:
    """Return a number of a table, or a dash if it was not measured."""
    return "-" if value is None else f"{value:.{digits}f}"

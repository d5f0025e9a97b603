"""Progress bar of a training run, in a terminal or a notebook."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from .history import Epoch


class NoBar:
    """Ignore the steps and epochs of a run: the bar of `progress=False`, and of every process but the main one."""

    def step(self, epoch: int, done: int, steps: int, loss: Tensor | None) -> None:
        """Ignore a training step."""

    def validated(self, epoch: Epoch) -> None:
        """Ignore the end of an epoch."""

    def close(self) -> None:
        """Do nothing."""


class Bar(NoBar):
    """Show one bar over the steps of all epochs, with losses, the validation accuracy and the time that remains.

    Args:
        epochs: Number of epochs of the run.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._bar: Any = None  # made at the first step, when the number of steps is known
        self._losses: list[float] = []
        self._shown: dict[str, str] = {}

    def step(self, epoch: int, done: int, steps: int, loss: Tensor | None) -> None:
        """Advance by one step.

        Args:
            epoch: Index of the epoch.
            done: Steps done in the epoch, this one included.
            steps: Steps in the epoch.
            loss: Loss of the step, a scalar; None if all its samples are ignored.
        """
        if self._bar is None:
            self._bar = _tqdm(total=self.epochs * steps, initial=epoch * steps + done - 1)
        if done == 1:
            self._losses = []
            self._bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
        if loss is not None:
            self._losses.append(float(loss))
            self._show(loss=f"{sum(self._losses) / len(self._losses):.4f}")
        self._bar.update()

    def validated(self, epoch: Epoch) -> None:
        """Show the metrics of an epoch that is finished.

        Args:
            epoch: Its metrics.
        """
        if epoch.val_accuracy is not None:
            self._show(val_accuracy=f"{100 * epoch.val_accuracy:.1f} %")

    def close(self) -> None:
        """Leave the bar as it stands, and end its line."""
        if self._bar is not None:
            self._bar.close()

    def _show(self, **values: str) -> None:
        """Change some of the numbers beside the bar; they are drawn with the next step, or on closing."""
        self._shown |= values
        self._bar.set_postfix(self._shown, refresh=False)


@contextlib.contextmanager
def progress_bar(epochs: int, *, shown: bool) -> Iterator[NoBar]:
    """Open the bar of a run, and close it on exit, also by an exception.

    Args:
        epochs: Number of epochs of the run.
        shown: Whether there is a bar to see.

    Yields:
        The bar, to be told every step and every epoch.
    """
    bar = Bar(epochs) if shown else NoBar()
    try:
        yield bar
    finally:
        bar.close()


def _tqdm(total: int, initial: int) -> Any:
    """Return tqdm's bar for the terminal or the notebook: the mean speed gives the time left, validation included."""
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=initial, unit="step", smoothing=0, miniters=1, dynamic_ncols=True)

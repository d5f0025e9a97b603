"""Losses and accuracies of a training run."""

from __future__ import annotations

import dataclasses


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
    """Metrics of every epoch of a training run.

    Args:
        epochs: The epochs, in order.
        best_epoch: Index of the epoch whose parameters the model now holds.
    """

    epochs: tuple[Epoch, ...]
    best_epoch: int

    @property
    def val_accuracy(self) -> float | None:
        """Validation accuracy of the parameters the model now holds, 0 to 1; None without validation."""
        return self.epochs[self.best_epoch].val_accuracy

    def followed_by(self, epoch: Epoch) -> History:
        """Return the history with one more epoch.

        The best epoch is the first with the highest validation accuracy; without validation, the last.

        Args:
            epoch: The epoch to append.
        """
        epochs = (*self.epochs, epoch)
        best = self.val_accuracy if self.epochs else None
        better = best is None or (epoch.val_accuracy is not None and epoch.val_accuracy > best)
        return History(epochs, len(epochs) - 1 if better else self.best_epoch)

"""What a training run did."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One pass over the training split.

    Args:
        train_loss: Mean loss of the steps.
        val_loss: Mean loss on the validation split afterwards; None where nothing was validated.
        val_accuracy: Fraction of the validation split classified rightly, 0 to 1; None where nothing was validated.
        seconds: Wall time of the pass and its validation.
    """

    train_loss: float
    val_loss: float | None
    val_accuracy: float | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class History:
    """What a training run did.

    Args:
        epochs: The passes in order.
        best_epoch: Index of the pass whose parameters the model now holds.
    """

    epochs: tuple[Epoch, ...]
    best_epoch: int

    @property
    def val_accuracy(self) -> float | None:
        """Validation accuracy of the parameters the model now holds, 0 to 1; None where nothing was validated."""
        return self.epochs[self.best_epoch].val_accuracy

    def followed_by(self, epoch: Epoch) -> History:
        """Return this with one more pass: the first of the most accurate is the best; unmeasured, the last.

        Args:
            epoch: The pass.
        """
        epochs = (*self.epochs, epoch)
        best = self.val_accuracy if self.epochs else None
        better = best is None or (epoch.val_accuracy is not None and epoch.val_accuracy > best)
        return History(epochs, len(epochs) - 1 if better else self.best_epoch)

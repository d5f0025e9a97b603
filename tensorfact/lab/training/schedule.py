"""The numbers that define a training run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sized
from typing import Any, cast

from torch import Tensor
from torch.utils.data import Dataset

from ...common.checks import finite_number, whole_number
from ...errors import TrainingError

Loss = Callable[[Tensor, Tensor], Tensor]
Samples = Dataset[Any]


def size_of(samples: Samples) -> int:
    """Return how many samples there are; torch's `Dataset` declares no length.

    Args:
        samples: A data set with a length.
    """
    return len(cast("Sized", samples))


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The numbers that define a run; a checkpoint resumes only under the same ones."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup_epochs: float
    seed: int
    lr_factors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    validate_every: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        for name, lowest in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("validate_every", 1)):
            check_number(name, getattr(self, name), lowest)
        for name in ("lr", "weight_decay", "warmup_epochs"):
            check_number(name, getattr(self, name), 0, whole=False)

    def lr_factor(self, progress: float) -> float:
        """Return the learning rate's multiple after `progress` of the epochs: linear warm-up, then a cosine to 0."""
        warmup = min(self.warmup_epochs / self.epochs, 1.0)
        if progress < warmup:
            return progress / warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, 1e-12)))

    def validates(self, index: int) -> bool:
        """Return whether the model is validated after an epoch: after every so many, and after the last."""
        return (index + 1) % self.validate_every == 0 or index + 1 == self.epochs


def check_number(name: str, value: Any, lowest: int, *, whole: bool = True) -> None:
    """Refuse an argument of `fit` that is no number, or too small.

    Args:
        name: The argument.
        value: What arrived.
        lowest: The smallest that is allowed.
        whole: Whether it must be an int.

    Raises:
        TrainingError: It is refused.
    """
    if whole:
        whole_number(value, f"fit: {name}", TrainingError, least=lowest)
        return
    meant = f"a finite number of at least {lowest}"
    finite_number(value, f"fit: {name}", TrainingError, fits=lambda v: v >= lowest, expected=meant, example=lowest)

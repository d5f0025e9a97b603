"""Hyperparameters of a training run."""

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
    """Return the number of samples; torch's `Dataset` does not declare `__len__`.

    Args:
        samples: A data set with a length.
    """
    return len(cast("Sized", samples))


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Hyperparameters of a run; a checkpoint resumes only with equal ones."""

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
        """Return the learning-rate multiplier after a fraction of the run: linear warm-up, then cosine decay to 0."""
        warmup = min(self.warmup_epochs / self.epochs, 1.0)
        if progress < warmup:
            return progress / warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, 1e-12)))

    def validates(self, index: int) -> bool:
        """Return whether an epoch is validated: every `validate_every` epochs, and the last."""
        return (index + 1) % self.validate_every == 0 or index + 1 == self.epochs


def check_number(name: str, value: object, lowest: int, *, whole: bool = True) -> None:
    """Raise unless an argument of `fit` is a number of at least `lowest`.

    Args:
        name: Name of the argument, for the message.
        value: Value of the argument.
        lowest: Smallest allowed value.
        whole: Whether it must be an int.

    Raises:
        TrainingError: The value has another type or is below `lowest`.
    """
    if whole:
        whole_number(value, f"fit: {name}", TrainingError, least=lowest)
        return
    meant, example = f"a finite number of at least {lowest}", 1e-3 if name == "lr" else lowest
    finite_number(value, f"fit: {name}", TrainingError, fits=lambda v: v >= lowest, expected=meant, example=example)

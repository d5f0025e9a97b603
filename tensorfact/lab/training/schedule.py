"""Hyperparameters of a training run."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sized
from typing import Any, Literal, cast, get_args

from torch import Tensor
from torch.utils.data import Dataset

from ...common.checks import finite_number, flag, one_of, quoted, whole_number
from ...errors import TrainingError
from .history import Ties

_LARGEST = 1e6
"""The largest learning rate and weight decay: with those of more digits, AdamW leaves the range of fp32."""

OptimizerName = Literal["adamw", "preconditioned"]

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
    ties: Ties = "loss"
    optimizer: OptimizerName = "adamw"
    budget: int | None = None

    def __post_init__(self) -> None:
        epochs = count("epochs", self.epochs, 1)
        checked: dict[str, object] = {
            "epochs": epochs,
            "batch_size": count("batch_size", self.batch_size, 1),
            "lr": _number("lr", self.lr, above=True),
            "weight_decay": _number("weight_decay", self.weight_decay),
            "warmup_epochs": _warmup(self.warmup_epochs, epochs),
            "seed": count("seed", self.seed, 0),
            "lr_factors": _factors(self.lr_factors),
            "validate_every": count("validate_every", self.validate_every, 1),
            "drop_last": flag(self.drop_last, "fit: drop_last", TrainingError),
            "ties": one_of(self.ties, get_args(Ties), "fit: ties", TrainingError),
            "optimizer": one_of(self.optimizer, get_args(OptimizerName), "fit: optimizer", TrainingError),
            "budget": None if self.budget is None else count("budget", self.budget, 1, example=16_000),
        }
        for name, value in checked.items():  # numbers of numpy and torch become plain, as a checkpoint stores them
            object.__setattr__(self, name, value)

    def lr_factor(self, progress: float) -> float:
        """Return the learning-rate multiplier after a fraction of the run: linear warm-up, then cosine decay to 0."""
        warmup = self.warmup_epochs / self.epochs
        if progress < warmup:
            return progress / warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, 1e-12)))

    def validates(self, index: int) -> bool:
        """Return whether an epoch is validated: every `validate_every` epochs, and the last."""
        return (index + 1) % self.validate_every == 0 or index + 1 == self.epochs


def worker_count(value: object) -> int:
    """Check the argument `workers` of `fit`, and return it as a plain int.

    Args:
        value: Value of the argument.

    Raises:
        TrainingError: It is not an int, below 0, or more than 64 and than four for every processor.
    """
    number, most = count("workers", value, 0), max(64, 4 * (os.cpu_count() or 1))
    if number > most:
        raise TrainingError(
            "fit: workers", expected=f"at most {most} processes that load data", got=str(number), fix="workers=4"
        )
    return number


def count(name: str, value: object, least: int, *, example: int | None = None) -> int:
    """Check that an argument of `fit` is an int of at least `least`, and return it as a plain int.

    Args:
        name: Name of the argument, for the message.
        value: Value of the argument.
        least: Smallest allowed value.
        example: A value for the fix; default: the smallest one.

    Raises:
        TrainingError: The value has another type or is below `least`.
    """
    return whole_number(
        value, f"fit: {name}", TrainingError, least=least, example=least if example is None else example
    )


def _number(name: str, value: object, *, above: bool = False) -> float:
    """Check that an argument is at least 0, or above 0, and not too large, and return it as a plain float."""
    return finite_number(
        value,
        f"fit: {name}",
        TrainingError,
        fits=lambda v: (v > 0 or (v == 0 and not above)) and v <= _LARGEST,
        expected=f"a finite number {'above' if above else 'of at least'} 0, at most {_LARGEST:g}",
        example=1e-3 if above else 0.0,
    )


def _warmup(value: object, epochs: int) -> float:
    """Check that a warm-up does not outlast the run, and return its length as a plain float."""
    return finite_number(
        value,
        "fit: warmup_epochs",
        TrainingError,
        fits=lambda v: 0 <= v <= epochs,
        expected=f"a number from 0 to {epochs}, the number of epochs",
        example=epochs / 10,
    )


def _factors(given: object) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise TrainingError(
            "fit: lr_factors",
            expected="a dict of multipliers by name",
            got=quoted(given),
            fix="lr_factors={'B': 16}",
        )
    return {name: _number(f"lr_factors[{name!r}]", factor, above=True) for name, factor in given.items()}

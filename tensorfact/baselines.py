"""What adapters are compared with: training the head alone, and training everything."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import nn

from .anatomy import base_parameters
from .files import write_tensors
from .owners import head_parameters


class Trained(Protocol):
    """Something attached to a model that trains: an `Adapter`, or a baseline's `Weights`."""

    @property
    def num_parameters(self) -> int:
        """How many numbers train, the head apart."""

    def merge(self) -> None:
        """Write what was trained into the model's weights."""

    def save(self, path: str | Path) -> None:
        """Write what was trained to one file."""


class Method(Protocol):
    """A row of a comparison: how a model is made to train."""

    @property
    def label(self) -> str:
        """The row's name."""

    def attach(self, model: nn.Module, seed: int) -> Trained:
        """Make a model train in this method's way, in place."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Some of a model's own parameters, trained directly.

    Args:
        model: The model.
        names: The parameters that train.
        num_parameters: How many numbers they hold, the head apart.
    """

    model: nn.Module
    names: Sequence[str]
    num_parameters: int

    def merge(self) -> None:
        """Do nothing: the weights are where they belong."""

    def save(self, path: str | Path) -> None:
        """Write the trained parameters to one file."""
        parameters = base_parameters(self.model)
        write_tensors(path, {name: parameters[name] for name in self.names}, {"kind": "weights"})


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """Train the head alone."""

    label: str = "linear probe"

    def attach(self, model: nn.Module, seed: int) -> Weights:
        """Freeze all but the head."""
        return _train_only(model, set(head_parameters(model, True)))


@dataclasses.dataclass(frozen=True)
class FullFineTuning:
    """Train every parameter."""

    label: str = "full fine-tuning"

    def attach(self, model: nn.Module, seed: int) -> Weights:
        """Let everything train."""
        return _train_only(model, set(base_parameters(model)))


def _train_only(model: nn.Module, names: set[str]) -> Weights:
    head = set(head_parameters(model, True))
    parameters = {id(p): (name, p) for name, p in base_parameters(model).items()}
    for name, parameter in parameters.values():
        parameter.requires_grad_(name in names)
    counted = [p.numel() for name, p in parameters.values() if name in names - head]
    return Weights(model, sorted(name for name, _ in parameters.values() if name in names), sum(counted))

"""Baselines that train some of a model's own parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import nn

from ...common.checks import AnyPath
from ...model.head import head_buffers, head_parameters
from ...model.parameters import base_parameters, refuse_adapted
from ...storage.files import write_tensors


@dataclasses.dataclass(frozen=True)
class TrainedWeights:
    """Some of a model's own parameters, trained directly.

    Args:
        model: The model.
        names: Names of the trained parameters.
        num_parameters: Number of trained parameters, without the head.
        flags: `requires_grad` of every parameter before.
    """

    model: nn.Module
    names: tuple[str, ...]
    num_parameters: int
    flags: Mapping[str, bool]

    def merge(self) -> None:
        """Do nothing: the model's own weights were trained."""

    def save(self, path: AnyPath) -> None:
        """Write the trained parameters, and the running statistics that go with them, to one file."""
        parameters, stored = base_parameters(self.model), self.model.state_dict()
        buffers = {name: buffer for name, buffer in head_buffers(self.model, self.names).items() if name in stored}
        write_tensors(path, {**{name: parameters[name] for name in self.names}, **buffers}, {"kind": "weights"})

    def remove(self) -> None:
        """Restore `requires_grad` of every parameter; the trained values stay."""
        for name, parameter in base_parameters(self.model).items():
            parameter.requires_grad_(self.flags[name])


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """Train only the head."""

    label: str = "linear probe"

    def attach(self, model: nn.Module, seed: int) -> TrainedWeights:
        """Freeze all parameters except the head."""
        return train_only(model, set(head_parameters(model, True)))


@dataclasses.dataclass(frozen=True)
class FullFineTuning:
    """Train every parameter."""

    label: str = "full fine-tuning"

    def attach(self, model: nn.Module, seed: int) -> TrainedWeights:
        """Make every parameter trainable."""
        return train_only(model, set(base_parameters(model)))


@dataclasses.dataclass(frozen=True)
class BitFit:
    """Train the head and every bias, including the relative position bias tables of Swin.

    Source: E. Ben Zaken et al., BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
    Language-models, ACL 2022.
    """

    label: str = "bitfit"

    def attach(self, model: nn.Module, seed: int) -> TrainedWeights:
        """Freeze all parameters except biases and the head."""
        biases = {name for name in base_parameters(model) if "bias" in name.rpartition(".")[2]}
        return train_only(model, biases | set(head_parameters(model, True)))


def train_only(model: nn.Module, names: set[str]) -> TrainedWeights:
    """Freeze all parameters of a model except those named.

    Args:
        model: The model.
        names: Names of the parameters to train.
    """
    refuse_adapted(model)
    head = set(head_parameters(model, True))
    named = base_parameters(model)
    flags = {name: parameter.requires_grad for name, parameter in named.items()}
    parameters = {id(p): (name, p) for name, p in named.items()}
    for name, parameter in parameters.values():
        parameter.requires_grad_(name in names)
    counted = [p.numel() for name, p in parameters.values() if name in names - head]
    return TrainedWeights(model, tuple(sorted(n for n, _ in parameters.values() if n in names)), sum(counted), flags)

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
        names: The parameters that train.
        num_parameters: How many numbers they hold, the head apart.
        flags: Whether each of the model's parameters required gradients before.
    """

    model: nn.Module
    names: tuple[str, ...]
    num_parameters: int
    flags: Mapping[str, bool]

    def merge(self) -> None:
        """Do nothing: the weights are where they belong."""

    def save(self, path: AnyPath) -> None:
        """Write the trained parameters to one file, and the running statistics that trained beside them."""
        parameters, stored = base_parameters(self.model), self.model.state_dict()
        buffers = {name: buffer for name, buffer in head_buffers(self.model, self.names).items() if name in stored}
        write_tensors(path, {**{name: parameters[name] for name in self.names}, **buffers}, {"kind": "weights"})

    def remove(self) -> None:
        """Let every parameter require gradients as it did before; what was trained stays."""
        for name, parameter in base_parameters(self.model).items():
            parameter.requires_grad_(self.flags[name])


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """Train the head alone."""

    label: str = "linear probe"

    def attach(self, model: nn.Module, seed: int) -> TrainedWeights:
        """Freeze all but the head."""
        return train_only(model, set(head_parameters(model, True)))


@dataclasses.dataclass(frozen=True)
class FullFineTuning:
    """Train every parameter."""

    label: str = "full fine-tuning"

    def attach(self, model: nn.Module, seed: int) -> TrainedWeights:
        """Let everything train."""
        return train_only(model, set(base_parameters(model)))


@dataclasses.dataclass(frozen=True)
class BitFit:
    """Train every bias, and the head; Swin's tables of relative position biases are among them.

    Source: E. Ben Zaken et al., BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
    Language-models, ACL 2022.
    """

    label: str = "bitfit"

    def attach(self, model: nn.Module, seed: int) -> TrainedWeights:
        """Freeze all but biases and the head."""
        biases = {name for name in base_parameters(model) if "bias" in name.rpartition(".")[2]}
        return train_only(model, biases | set(head_parameters(model, True)))


def train_only(model: nn.Module, names: set[str]) -> TrainedWeights:
    """Let only some of a model's parameters require gradients.

    Args:
        model: The model.
        names: Their names.
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

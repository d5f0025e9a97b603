"""Recomputation of cheap modules: a linear layer saves the input of the cheap module before it, not its output."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks
from torch.utils.hooks import RemovableHandle

from .cache import autocast_dtype, composable, require_version, without_autocast

SOURCE = "_tensorfact_source"

CHEAP = (
    nn.LayerNorm, nn.RMSNorm, nn.GroupNorm,
    nn.GELU, nn.SiLU, nn.Mish, nn.LeakyReLU, nn.ELU, nn.Hardswish,
)  # fmt: skip
"""Modules that are cheap beside a matrix product, save their own input for the backward pass, and are deterministic.

Subclasses count if they inherit the `forward` of one of these. ReLU, sigmoid and tanh save their output, so
recomputing it would save no memory.
"""

CHEAP_IN_TIMM = ("LayerNorm", "RmsNorm")
"""Such modules of `timm.layers`, by name, since importing timm takes longer than importing torch."""


@dataclasses.dataclass(frozen=True)
class Recomputation:
    """Recomputes the output of a module as in its forward pass.

    Args:
        module: The module to run again.
        parameters: The parameters in the forward pass, with their versions.
        autocast: The autocast dtype in the forward pass, or None.
    """

    module: nn.Module
    parameters: Mapping[str, tuple[Tensor, int]]
    autocast: torch.dtype | None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the module's output.

        Raises:
            RuntimeError: A parameter of the module was changed in place after the forward pass.
        """
        for name, (parameter, version) in self.parameters.items():
            require_version(parameter, version, f"{name!r} of {type(self.module).__name__}")
        then_on = self.autocast is not None
        with torch.autocast(x.device.type, self.autocast) if then_on else without_autocast(x.device):
            stored = self.module._parameters
            if all(stored.get(name) is parameter for name, (parameter, _) in self.parameters.items()):
                return _tensor(self.module.forward(x))
            # the forward pass ran inside functional_call, with other parameters than the module's own
            then = {name: parameter for name, (parameter, _) in self.parameters.items()}
            return _tensor(torch.func.functional_call(self.module, then, (x,)))


def _tensor(output: object) -> Tensor:
    assert isinstance(output, Tensor)
    return output


class Origin(NamedTuple):
    """How a tensor can be recomputed.

    Args:
        recipe: The recomputation.
        input: The tensor that it starts from.
        versions: Versions of the recomputable tensor and of `input` in the forward pass.
    """

    recipe: Recomputation
    input: Tensor
    versions: tuple[int, int]


def note_sources(model: nn.Module) -> list[RemovableHandle]:
    """Register hooks by which each cheap module attaches to its outputs how they can be recomputed.

    Args:
        model: The model whose submodules get the hooks.

    Returns:
        Handles to remove the hooks.
    """
    timm = sys.modules.get("timm.layers")  # a timm model exists only if timm is imported
    kinds = (*CHEAP, *(getattr(timm, name, nn.LayerNorm) for name in CHEAP_IN_TIMM))
    forwards = {kind.forward for kind in kinds}
    return [m.register_forward_hook(_note) for m in model.modules() if type(m).forward in forwards]


def _note(module: nn.Module, arguments: tuple[object, ...], output: object) -> None:
    x = arguments[0] if len(arguments) == 1 else None
    if not isinstance(x, Tensor) or not isinstance(output, Tensor) or output is x:
        return
    if len(module._forward_hooks) > 1 or _global_forward_hooks:  # another hook may have replaced the output
        return
    parameters = {name: p for name, p in module._parameters.items() if p is not None}
    tensors = (output, x, *parameters.values())
    if not torch.is_grad_enabled() or composable(*tensors) or any(tensor.is_inference() for tensor in tensors):
        return
    counted = {name: (parameter, parameter._version) for name, parameter in parameters.items()}
    recipe = Recomputation(module, counted, autocast_dtype(output.device))
    setattr(output, SOURCE, Origin(recipe, x, (output._version, x._version)))


def source_of(x: Tensor) -> Origin | None:
    """Return how a tensor can be recomputed; None if that is unknown, or a tensor was changed in place since."""
    source: Origin | None = getattr(x, SOURCE, None)
    same = source is not None and source.versions == (x._version, source.input._version)
    return source if same else None

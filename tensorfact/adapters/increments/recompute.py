"""Inputs of linear layers that are cheap to compute again: kept as what they were computed from."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks
from torch.utils.hooks import RemovableHandle

from .cache import autocast_dtype, composable, require_version

SOURCE = "_tensorfact_source"

CHEAP = (
    nn.LayerNorm, nn.RMSNorm, nn.GroupNorm,
    nn.GELU, nn.SiLU, nn.Mish, nn.LeakyReLU, nn.ELU, nn.Hardswish,
)  # fmt: skip
"""What costs little beside a product, keeps its own input for the backward pass, and gives the same numbers again.

Subclasses count as long as their `forward` is one of these. ReLU, sigmoid and tanh keep their output, so nothing would
be saved.
"""

CHEAP_IN_TIMM = ("LayerNorm", "RmsNorm")
"""The same of `timm.layers`, by name: importing timm takes longer than importing torch, and few models need it."""


@dataclasses.dataclass(frozen=True)
class Recomputation:
    """How to compute a module's output again.

    Args:
        module: The module.
        parameters: Its parameters then, and how often each was changed by then.
        autocast: The dtype of the autocast in force, if one was.
    """

    module: nn.Module
    parameters: Mapping[str, tuple[Tensor, int]]
    autocast: torch.dtype | None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the module's output.

        Raises:
            RuntimeError: A parameter of the module was changed in place since.
        """
        for name, (parameter, version) in self.parameters.items():
            require_version(parameter, version, f"{name!r} of {type(self.module).__name__}")
        kind = x.device.type
        able = torch.amp.is_autocast_available(kind)
        context = torch.autocast(kind, self.autocast, enabled=self.autocast is not None) if able else nullcontext()
        with context:
            stored = self.module._parameters
            if all(stored.get(name) is parameter for name, (parameter, _) in self.parameters.items()):
                return _tensor(self.module.forward(x))
            then = {name: parameter for name, (parameter, _) in self.parameters.items()}  # functional_call swapped them
            return _tensor(torch.func.functional_call(self.module, then, (x,)))


def _tensor(output: Any) -> Tensor:
    assert isinstance(output, Tensor)
    return output


class Origin(NamedTuple):
    """What a tensor was computed from.

    Args:
        recipe: How.
        input: From what.
        versions: How often the tensor, and what it was computed from, were changed by then.
    """

    recipe: Recomputation
    input: Tensor
    versions: tuple[int, int]


def note_sources(model: nn.Module) -> list[RemovableHandle]:
    """Let every cheap module of a model note on its outputs what they were computed from.

    Args:
        model: The model.

    Returns:
        The hooks, to be removed.
    """
    timm = sys.modules.get("timm.layers")  # whoever made a model of timm's has imported it
    kinds = (*CHEAP, *(getattr(timm, name, nn.LayerNorm) for name in CHEAP_IN_TIMM))
    forwards = {kind.forward for kind in kinds}
    return [m.register_forward_hook(_note) for m in model.modules() if type(m).forward in forwards]


def _note(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
    if len(arguments) != 1 or not isinstance(output, Tensor) or output is arguments[0]:
        return
    if len(module._forward_hooks) > 1 or _global_forward_hooks:  # what came out may be what a hook made of it
        return
    parameters = {name: p for name, p in module._parameters.items() if p is not None}
    tensors = (output, arguments[0], *parameters.values())
    if not torch.is_grad_enabled() or composable(*tensors) or any(tensor.is_inference() for tensor in tensors):
        return
    counted = {name: (parameter, parameter._version) for name, parameter in parameters.items()}
    recipe = Recomputation(module, counted, autocast_dtype(output.device))
    setattr(output, SOURCE, Origin(recipe, arguments[0], (output._version, arguments[0]._version)))


def source_of(x: Tensor) -> Origin | None:
    """Return what a tensor was computed from, if that was noted and the tensor is still what came out."""
    source: Origin | None = getattr(x, SOURCE, None)
    same = source is not None and source.versions == (x._version, source.input._version)
    return source if same else None

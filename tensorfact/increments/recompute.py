"""Inputs of linear layers that are cheap to compute again: kept as what they were computed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from timm.layers import LayerNorm, RmsNorm
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks
from torch.utils.hooks import RemovableHandle

from .formed import composable

SOURCE = "_tensorfact_source"

CHEAP = (
    nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, LayerNorm, RmsNorm,
    nn.GELU, nn.SiLU, nn.Mish, nn.LeakyReLU, nn.ELU, nn.Hardswish,
)  # fmt: skip
"""What costs little beside a product, keeps its own input for the backward pass, and gives the same numbers again.

Subclasses count as long as their `forward` is one of these. ReLU, sigmoid and tanh keep their output, so nothing would
be saved.
"""

_FORWARDS = {kind.forward for kind in CHEAP}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to compute a module's output again.

    Args:
        module: The module.
        autocast: The dtype of the autocast in force, if one was.
    """

    module: Callable[[Tensor], Tensor]
    autocast: torch.dtype | None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the module's output."""
        kind = x.device.type
        if not torch.amp.is_autocast_available(kind):
            return self.module(x)
        with torch.autocast(kind, self.autocast, enabled=self.autocast is not None):
            return self.module(x)


class Source(NamedTuple):
    """What a tensor was computed from.

    Args:
        recipe: How.
        input: From what.
        versions: How often the tensor, and what it was computed from, were changed by then.
    """

    recipe: Recipe
    input: Tensor
    versions: tuple[int, int]


def note_sources(model: nn.Module) -> list[RemovableHandle]:
    """Let every cheap module of a model note on its outputs what they were computed from.

    Args:
        model: The model.

    Returns:
        The hooks, to be removed.
    """
    return [m.register_forward_hook(_note) for m in model.modules() if type(m).forward in _FORWARDS]


def _note(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
    if len(arguments) != 1 or not isinstance(output, Tensor) or output is arguments[0]:
        return
    if len(module._forward_hooks) > 1 or _global_forward_hooks:  # what came out may be what a hook made of it
        return
    if not torch.is_grad_enabled() or composable(output, arguments[0]):
        return
    kind = output.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    recipe = Recipe(module.forward, torch.get_autocast_dtype(kind) if on else None)
    setattr(output, SOURCE, Source(recipe, arguments[0], (output._version, arguments[0]._version)))


def source_of(x: Tensor) -> Source | None:
    """Return what a tensor was computed from, if that was noted and the tensor is still what came out."""
    source: Source | None = getattr(x, SOURCE, None)
    same = source is not None and source.versions == (x._version, source.input._version)
    return source if same else None

"""Inputs of linear layers that are cheap to compute again: kept as what they were computed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .formed import composable

SOURCE = "_tensorfact_source"

CHEAP = (
    nn.LayerNorm, nn.RMSNorm, nn.GroupNorm,
    nn.GELU, nn.SiLU, nn.Mish, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.Hardswish, nn.Sigmoid, nn.Tanh,
)  # fmt: skip
"""What costs little beside a product, keeps its own input for the backward pass, and gives the same numbers again."""


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
        version: How often the tensor was changed by then.
    """

    recipe: Recipe
    input: Tensor
    version: int


def note_sources(model: nn.Module) -> list[RemovableHandle]:
    """Let every cheap module of a model note on its outputs what they were computed from.

    Args:
        model: The model.

    Returns:
        The hooks, to be removed.
    """
    return [module.register_forward_hook(_note) for module in model.modules() if isinstance(module, CHEAP)]


def _note(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
    if len(arguments) != 1 or not isinstance(output, Tensor) or output is arguments[0]:
        return
    if not torch.is_grad_enabled() or composable(output, arguments[0]):
        return
    kind = output.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    recipe = Recipe(module.forward, torch.get_autocast_dtype(kind) if on else None)
    setattr(output, SOURCE, Source(recipe, arguments[0], output._version))


def source_of(x: Tensor) -> Source | None:
    """Return what a tensor was computed from, if that was noted and the tensor is still what came out."""
    source: Source | None = getattr(x, SOURCE, None)
    return source if source is not None and source.version == x._version else None

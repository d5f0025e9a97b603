"""Baselines that add a narrow two-layer network to every block: Adapter and AdaptFormer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import skip_init

from ...common.checks import finite_number
from ...errors import AdaptError
from .added import Added, blocks_of
from .method import require_size


class Bottleneck(nn.Module):
    """Two linear layers with an activation function between them. The second starts at zero.

    Args:
        width: The width of inputs and outputs.
        hidden: The width between.
        act: The activation function.
        scale: What multiplies the result.
        generator: What draws the first layer, normal with variance 1 / width.

    Attributes:
        used: How many of the hidden numbers are in use, the leading ones; if none is, nothing is added.
    """

    def __init__(self, width: int, hidden: int, act: nn.Module, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        make: Any = functools.partial(skip_init, nn.Linear)  # which leaves the caller's random state as it is
        self.down, self.up = make(width, hidden), make(hidden, width)
        self.act, self.scale, self.used = act, scale, hidden
        with torch.no_grad():
            self.down.weight.copy_(torch.randn(hidden, width, generator=generator) / width**0.5)
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()
        self._kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added (..., width)."""
        inner = self.act(linear(x, self.down.weight[: self.used], self.down.bias[: self.used]))
        return linear(inner, self.up.weight[:, : self.used], self.up.bias) * self.scale

    def after(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Add to a module's output what its output gives."""
        return output + self.forward(output) if self.used else output

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Remember a module's input."""
        self._kept = inputs[0]

    def beside(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Add to a module's output what the input that was kept gives."""
        kept, self._kept = self._kept, None
        if kept is None:
            raise AdaptError("the block's norm2 did not run before its mlp", fix="leave this baseline out")
        return output + self.forward(kept)


def bottlenecked(model: nn.Module, *parts: str) -> Sequence[tuple[Any, int]]:
    """Return a model's blocks that have these parts beside attention, each with the width of what its MLP returns.

    Raises:
        AdaptError: There is none, or an MLP does not end in a linear layer `fc2`.
    """
    blocks: Sequence[Any] = blocks_of(model, "mlp", "attn", *parts)
    for block in blocks:
        if not isinstance(getattr(block.mlp, "fc2", None), nn.Linear):
            raise AdaptError(
                f"{type(model).__name__} cannot take bottlenecks",
                expected="MLPs that end in a linear layer fc2",
                got=type(block.mlp).__name__,
                fix="leave this baseline out",
            )
    return [(block, block.mlp.fc2.out_features) for block in blocks]


@dataclasses.dataclass(frozen=True)
class BottleneckAdapters:
    """A bottleneck after the MLP of every block.

    Args:
        hidden: The bottleneck's width.

    Source: N. Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019.
    """

    hidden: int = 8

    def __post_init__(self) -> None:
        require_size("Adapters: hidden", self.hidden)

    @property
    def label(self) -> str:
        """The row's name."""
        return f"adapter h={self.hidden}"

    def attach(self, model: nn.Module, seed: int) -> Added:
        """Add the bottlenecks."""
        generator = torch.Generator().manual_seed(seed)
        added, hooks = [], []
        for block, width in bottlenecked(model):
            bottleneck = Bottleneck(width, self.hidden, nn.GELU(), 1.0, generator)
            added.append(bottleneck)
            hooks.append(block.mlp.register_forward_hook(bottleneck.after))
        return Added(model, added, hooks)


@dataclasses.dataclass(frozen=True)
class AdaptFormer:
    """A bottleneck beside the normalised MLP of every block.

    For blocks that normalise before their MLP: its branch starts before the norm and joins after the MLP.

    Args:
        hidden: The bottleneck's width.
        scale: What multiplies its result.

    Source: S. Chen et al., AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition, NeurIPS 2022.
    """

    hidden: int = 8
    scale: float = 0.1

    def __post_init__(self) -> None:
        require_size("AdaptFormer: hidden", self.hidden)
        finite_number(self.scale, "AdaptFormer: scale", AdaptError, example=0.1)

    @property
    def label(self) -> str:
        """The row's name."""
        return f"adaptformer h={self.hidden}"

    def attach(self, model: nn.Module, seed: int) -> Added:
        """Add the bottlenecks."""
        blocks = bottlenecked(model, "norm2")
        for block, _ in blocks:
            at = {name: index for index, name in enumerate(block._modules)}
            if at.get("norm2", 0) > at.get("mlp", 0):  # timm's blocks list their parts as they run
                raise AdaptError(
                    f"{type(block).__name__} cannot take AdaptFormer",
                    expected="blocks that normalise before their MLP",
                    fix="leave this baseline out, or use BottleneckAdapters",
                )
        generator = torch.Generator().manual_seed(seed)
        added, hooks = [], []
        for block, width in blocks:
            bottleneck = Bottleneck(width, self.hidden, nn.ReLU(), self.scale, generator)
            added.append(bottleneck)
            hooks += [
                block.norm2.register_forward_pre_hook(bottleneck.keep),
                block.mlp.register_forward_hook(bottleneck.beside),
            ]
        return Added(model, added, hooks)

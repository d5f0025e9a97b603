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
from .added import Added, Block, blocks_of
from .method import require_size


class Bottleneck(nn.Module):
    """Two linear layers with an activation function between them. The second starts at zero.

    Args:
        width: Width of inputs and outputs.
        hidden: Width between the layers.
        act: Activation function.
        scale: Factor of the output.
        generator: Draws the weights of the first layer, normal with variance 1 / width.

    Attributes:
        used: Number of leading hidden units in use; with 0, nothing is added.
    """

    def __init__(self, width: int, hidden: int, act: nn.Module, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        make: Any = functools.partial(skip_init, nn.Linear)  # leaves the caller's random state unchanged
        self.down, self.up = make(width, hidden), make(hidden, width)
        self.act, self.scale, self.used = act, scale, hidden
        with torch.no_grad():
            self.down.weight.copy_(torch.randn(hidden, width, generator=generator) / width**0.5)
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()
        self._kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the update (..., width) of an input (..., width)."""
        inner = self.act(linear(x, self.down.weight[: self.used], self.down.bias[: self.used]))
        return linear(inner, self.up.weight[:, : self.used], self.up.bias) * self.scale

    def after(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        """Forward hook: add the update of the module's output to the output."""
        return output + self.forward(output) if self.used else output

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Forward pre-hook: keep the module's input for `beside`."""
        self._kept = inputs[0]

    def beside(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        """Forward hook: add the update of the input that was kept to the module's output."""
        kept, self._kept = self._kept, None
        if kept is None:
            raise AdaptError("the block's norm2 did not run before its mlp", fix="leave this baseline out")
        return output + self.forward(kept)


def bottlenecked(model: nn.Module, *parts: str) -> Sequence[tuple[Block, int]]:
    """Return the blocks of a model that have these submodules, an MLP and attention, with the output width of the MLP.

    Raises:
        AdaptError: The model has no such block, or an MLP does not end in a linear layer `fc2`.
    """
    found = []
    for block in blocks_of(model, "mlp", "attn", *parts):
        last = getattr(block.mlp, "fc2", None)
        if not isinstance(last, nn.Linear):
            raise AdaptError(
                f"{type(model).__name__} does not support bottlenecks",
                expected="MLPs that end in a linear layer fc2",
                got=type(block.mlp).__name__,
                fix="leave this baseline out",
            )
        found.append((block, last.out_features))
    return found


@dataclasses.dataclass(frozen=True)
class BottleneckAdapters:
    """A bottleneck after the MLP of every block.

    Args:
        hidden: Width of the bottleneck.

    Source: N. Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019.
    """

    hidden: int = 8

    def __post_init__(self) -> None:
        require_size("Adapters: hidden", self.hidden)

    @property
    def label(self) -> str:
        """Name of the method in tables."""
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
    """A bottleneck in parallel to the MLP of every block.

    For blocks that normalise before their MLP: the bottleneck reads the input of the norm, and its output is added to
    that of the MLP.

    Args:
        hidden: Width of the bottleneck.
        scale: Factor of the bottleneck's output.

    Source: S. Chen et al., AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition, NeurIPS 2022.
    """

    hidden: int = 8
    scale: float = 0.1

    def __post_init__(self) -> None:
        require_size("AdaptFormer: hidden", self.hidden)
        finite_number(self.scale, "AdaptFormer: scale", AdaptError, example=0.1)

    @property
    def label(self) -> str:
        """Name of the method in tables."""
        return f"adaptformer h={self.hidden}"

    def attach(self, model: nn.Module, seed: int) -> Added:
        """Add the bottlenecks."""
        blocks = bottlenecked(model, "norm2")
        for block, _ in blocks:
            order = [name for name, _ in block.named_children()]  # timm registers submodules in the order they run
            if order.index("norm2") > order.index("mlp"):
                raise AdaptError(
                    f"{type(block).__name__} does not support AdaptFormer",
                    expected="blocks that normalise before their MLP",
                    fix="use BottleneckAdapters, or leave this baseline out",
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

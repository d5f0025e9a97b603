"""NOAH's subnets: a bottleneck, LoRA and prompts in every block, each with its own size or left out."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ...errors import AdaptError
from .added import Added, Removable, blocks_of
from .bottleneck import Bottleneck
from .method import required_sizes
from .prompts import Prompts, sequence_of


class LowRank(nn.Module):
    """LoRA on the queries and the values of a fused qkv projection.

    Args:
        width: Width of the inputs, and of the queries.
        rank: LoRA rank.
        generator: Draws the down matrices, normal with variance 1 / width; the up matrices start at zero.

    Attributes:
        used: Number of leading ranks in use.
    """

    def __init__(self, width: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(2, rank, width, generator=generator) / width**0.5)
        self.up = nn.Parameter(torch.zeros(2, width, rank))
        self.used = rank

    def after(self, qkv: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """Forward hook: add the low-rank update to the projection (batch, tokens, 3 x width)."""
        down, up = self.down[:, : self.used], self.up[..., : self.used]
        q, v = (linear(linear(inputs[0], down[each]), up[each]) for each in range(2))
        return output + torch.cat([q, torch.zeros_like(q), v], -1)


@dataclasses.dataclass(frozen=True)
class Subnet:
    """A subnet of NOAH: in every block a bottleneck after the MLP, LoRA on queries and values, and prompts.

    For timm's ViT; `search_subnet` finds one. The released code has the same number of parameters: its LoRA has one
    down matrix, and one up matrix for queries, keys and values together.

    Args:
        adapters: Width of the bottleneck in each block; 0 for none.
        ranks: LoRA rank in each block; 0 for none.
        prompts: Number of prompts in each block; 0 for none.

    Raises:
        AdaptError: The three differ in length, or a size is not an int of at least 0.

    Source: Y. Zhang, K. Zhou, Z. Liu, Neural Prompt Search, 2022 (arXiv:2206.04673).

    Examples:
        >>> Subnet(adapters=(8,) * 12, ranks=(0,) * 12, prompts=(10,) * 12).num_parameters(768)
        248928
    """

    adapters: tuple[int, ...]
    ranks: tuple[int, ...]
    prompts: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in KINDS:
            object.__setattr__(self, name, required_sizes(f"Subnet: {name}", getattr(self, name), "one per block"))
        if len({len(getattr(self, name)) for name in KINDS}) > 1:
            lengths = ", ".join(f"{len(getattr(self, name))} {name}" for name in KINDS)
            raise AdaptError("Subnet", expected="one size of each kind per block", got=lengths, fix="pass 0 for none")

    @property
    def label(self) -> str:
        """Name of the method in tables."""
        return "noah"

    @property
    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """Bottleneck width, rank and number of prompts of each block."""
        return zip(self.adapters, self.ranks, self.prompts, strict=True)

    def num_parameters(self, width: int) -> int:
        """Return the number of parameters on a ViT of this width."""
        bottlenecks = sum(hidden * (2 * width + 1) + width for hidden in self.adapters if hidden)
        return bottlenecks + 4 * width * sum(self.ranks) + width * sum(self.prompts)

    def attach(self, model: nn.Module, seed: int) -> Added:
        """Add the modules of the subnet."""
        return Added(model, *_modules(model, self, seed))


PARTS = ("adapter", "lora", "prompts")
KINDS = tuple(field.name for field in dataclasses.fields(Subnet))


@dataclasses.dataclass(frozen=True)
class Space:
    """A search space of subnets: the sizes that every block chooses from, 0 for none.

    The defaults are the sizes of the 19 released subnets for VTAB-1K, which have every kind in every block and 0.360 M
    parameters on average. The released supernet offers 5, 10, 50 and 100, in the first 3, 6, 9 or 12 blocks.

    Args:
        adapters: Widths of the bottleneck.
        ranks: LoRA ranks.
        prompts: Numbers of prompts.

    Raises:
        AdaptError: A kind has no sizes, or a size is not an int of at least 0.
    """

    adapters: tuple[int, ...] = (1, 5, 10)
    ranks: tuple[int, ...] = (1, 5, 10)
    prompts: tuple[int, ...] = (1, 5, 10)

    def __post_init__(self) -> None:
        for name in KINDS:
            sizes = required_sizes(f"Space: {name}", getattr(self, name), "to choose from")
            if not sizes:
                raise AdaptError(f"Space: {name} is empty", fix=f"pass {name}=(0,) for none")
            object.__setattr__(self, name, sizes)

    def smallest(self, depth: int) -> Subnet:
        """Return the subnet that has the smallest size of every kind in each of `depth` blocks."""
        return Subnet(**{name: (min(getattr(self, name)),) * depth for name in KINDS})

    def largest(self, depth: int) -> Subnet:
        """Return the subnet that has the largest size of every kind in each of `depth` blocks."""
        return Subnet(**{name: (max(getattr(self, name)),) * depth for name in KINDS})

    def draw(self, depth: int, chance: random.Random) -> Subnet:
        """Return a random subnet, with every size drawn independently."""
        return Subnet(**{name: tuple(chance.choices(getattr(self, name), k=depth)) for name in KINDS})


RELEASED = Space()
"""The sizes of the released subnets."""


class Supernet(Added):
    """All subnets of a space with shared weights: a smaller one uses leading slices of the largest one's.

    In training mode every forward pass of the model uses a new random subnet. In evaluation mode it uses `subnet`, by
    default the largest, so that all epochs are validated with the same subnet.

    Args:
        model: A timm ViT.
        space: Sizes that the subnets choose from.
        seed: Seed of the initial weights, and of the subnets drawn in training.

    Attributes:
        subnet: Subnet used in evaluation mode.
    """

    def __init__(self, model: nn.Module, space: Space, seed: int) -> None:
        depth = len(blocks_of(model, "mlp", "attn", "norm1"))
        largest = space.largest(depth)
        modules, hooks = _modules(model, largest, seed)
        super().__init__(model, modules, [*hooks, model.register_forward_pre_hook(self.choose)])
        self.space, self.subnet, self.chance = space, largest, random.Random(seed)

    def choose(self, model: nn.Module, inputs: object) -> None:
        """Forward pre-hook: set the size that every module uses."""
        subnet = self.space.draw(len(self), self.chance) if model.training else self.subnet
        blocks: Any = self
        for modules, sizes in zip(blocks, subnet.blocks, strict=True):
            for part, size in zip(PARTS, sizes, strict=True):
                if part in modules:
                    modules[part].used = size


def _modules(model: nn.Module, subnet: Subnet, seed: int) -> tuple[list[nn.ModuleDict], list[Removable]]:
    """Make the modules of a subnet, one dictionary per block, and register their hooks on a model."""
    found = blocks_of(model, "mlp", "attn", "norm1")
    prefix, width = sequence_of(model)
    if len(found) != len(subnet.adapters):
        raise AdaptError(
            "Subnet", expected=f"{len(found)} sizes of each kind, one per block", got=f"{len(subnet.adapters)}"
        )
    generator = torch.Generator().manual_seed(seed)
    modules: list[nn.ModuleDict] = []
    hooks: list[Removable] = []
    for block, (hidden, rank, length) in zip(found, subnet.blocks, strict=True):
        own = nn.ModuleDict()
        if hidden:
            own["adapter"] = adapter = Bottleneck(width, hidden, nn.GELU(), 1.0, generator)
            hooks.append(block.mlp.register_forward_hook(adapter.after))
        if rank:
            own["lora"] = lora = LowRank(width, rank, generator)
            hooks.append(block.attn.get_submodule("qkv").register_forward_hook(lora.after))
        if length:
            own["prompts"] = prompts = Prompts(length, width, prefix, generator)
            hooks += prompts.tie([block])
        modules.append(own)
    return modules, hooks

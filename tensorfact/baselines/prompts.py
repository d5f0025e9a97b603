"""Visual prompt tuning: trained tokens beside those of the image."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AdaptError
from .added import Added, blocks_of


class Prompts(nn.Module):
    """Trained tokens that stand behind a block's class token.

    Args:
        length: How many.
        width: The width of a token.
        prefix: How many tokens stand before them.
        generator: What draws them, uniform as Xavier's for one token.
    """

    def __init__(self, length: int, width: int, prefix: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = (6 / (length + width)) ** 0.5
        self.tokens = nn.Parameter((torch.rand(length, width, generator=generator) * 2 - 1) * bound)
        self.prefix = prefix

    def insert(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Put the prompts into a block's input (batch, tokens, width)."""
        x, *rest = inputs
        prompts = self.tokens.to(x.dtype).expand(len(x), -1, -1)
        return (torch.cat([x[:, : self.prefix], prompts, x[:, self.prefix :]], 1), *rest)

    def strip(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Take the prompts' places out of a block's output."""
        return torch.cat([output[:, : self.prefix], output[:, self.prefix + len(self.tokens) :]], 1)


@dataclasses.dataclass(frozen=True)
class PromptTuning:
    """VPT: trained tokens before the first block (shallow), or new ones before every block (deep). For timm's ViT.

    Args:
        length: How many tokens.
        deep: Whether every block has its own.

    Source: M. Jia et al., Visual Prompt Tuning, ECCV 2022.
    """

    length: int = 10
    deep: bool = False

    @property
    def label(self) -> str:
        """The row's name."""
        return f"vpt-{'deep' if self.deep else 'shallow'} p={self.length}"

    def attach(self, model: nn.Module, seed: int) -> Added:
        """Add the prompts."""
        blocks = blocks_of(model, "mlp", "attn", "norm1")
        prefix, width = getattr(model, "num_prefix_tokens", None), getattr(model, "embed_dim", None)
        if not isinstance(prefix, int) or not isinstance(width, int):
            raise AdaptError(
                f"{type(model).__name__} cannot take prompts",
                expected="timm's ViT, whose tokens are one sequence",
                fix="leave this baseline out",
            )
        generator = torch.Generator().manual_seed(seed)
        spans = [(block, block) for block in blocks] if self.deep else [(blocks[0], blocks[-1])]
        added, hooks = [], []
        for first, last in spans:
            prompts = Prompts(self.length, width, prefix, generator)
            added.append(prompts)
            hooks += [first.register_forward_pre_hook(prompts.insert), last.register_forward_hook(prompts.strip)]
        return Added(model, added, hooks)

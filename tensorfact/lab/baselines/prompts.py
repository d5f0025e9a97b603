"""Visual prompt tuning (VPT): trained tokens that join those of the image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ...common.checks import flag
from ...errors import AdaptError
from .added import Added, Block, Removable, blocks_of
from .method import require_size
from .windows import WindowPrompts


class Prompts(nn.Module):
    """Trained tokens after the class token in a block's input.

    Args:
        length: Number of prompts.
        width: Width of a token.
        prefix: Number of tokens before the prompts, such as the class token.
        generator: Draws the initial prompts, Xavier uniform.

    Attributes:
        used: Number of leading prompts in use.
    """

    def __init__(self, length: int, width: int, prefix: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = (6 / (length + width)) ** 0.5
        self.tokens = nn.Parameter((torch.rand(length, width, generator=generator) * 2 - 1) * bound)
        self.prefix, self.used = prefix, length

    def insert(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Forward pre-hook: insert the prompts into a block's input (batch, tokens, width)."""
        x, *rest = inputs
        prompts = self.tokens[: self.used].to(x.dtype).expand(len(x), -1, -1)
        return (torch.cat([x[:, : self.prefix], prompts, x[:, self.prefix :]], 1), *rest)

    def strip(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        """Forward hook: remove the prompts from a block's output."""
        return torch.cat([output[:, : self.prefix], output[:, self.prefix + self.used :]], 1)

    def tie(self, blocks: Sequence[Block]) -> list[Removable]:
        """Register the hooks: insert before the first block, remove after the last."""
        return [
            blocks[0].register_forward_pre_hook(self.insert),
            blocks[-1].register_forward_hook(self.strip),
        ]


@dataclasses.dataclass(frozen=True)
class PromptTuning:
    """VPT: trained tokens before the first block (shallow), or new ones before every block (deep).

    For timm's ViT, and for its Swin, where they join the tokens of every window: see `WindowPrompts`.

    Args:
        length: Number of prompts. `prompt_length` returns the paper's.
        deep: Whether every block has its own prompts.

    Source: M. Jia et al., Visual Prompt Tuning, ECCV 2022.
    """

    length: int = 10
    deep: bool = False

    def __post_init__(self) -> None:
        require_size("PromptTuning: length", self.length)
        flag(self.deep, "PromptTuning: deep", AdaptError)

    @property
    def label(self) -> str:
        """Name of the method in tables."""
        return f"vpt-{'deep' if self.deep else 'shallow'} p={self.length}"

    def attach(self, model: nn.Module, seed: int) -> Added:
        """Add the prompts."""
        blocks = blocks_of(model, "mlp", "attn", "norm1")
        generator = torch.Generator().manual_seed(seed)
        spans: list[Sequence[Block]] = [[block] for block in blocks] if self.deep else [blocks]
        added: list[nn.Module] = []
        hooks: list[Removable] = []
        if all(isinstance(block, SwinTransformerBlock) for block in blocks):
            merges = [] if self.deep else [module for module in model.modules() if isinstance(module, PatchMerging)]
            for span in spans:
                in_windows = WindowPrompts(self.length, span[0].norm1.normalized_shape[0], generator)
                added.append(in_windows)
                hooks += in_windows.tie(span, merges)
                if len(span) > 1:
                    hooks.append(model.register_forward_pre_hook(in_windows.refuse_recomputing))
        else:
            prefix, width = sequence_of(model)
            for span in spans:
                prompts = Prompts(self.length, width, prefix, generator)
                added.append(prompts)
                hooks += prompts.tie(span)
        return Added(model, added, hooks)


def sequence_of(model: nn.Module) -> tuple[int, int]:
    """Return the number of prefix tokens of a ViT, such as the class token, and the width of a token.

    Raises:
        AdaptError: The model is not timm's ViT; other blocks may depend on the position of tokens.
    """
    if not isinstance(model, VisionTransformer):
        raise AdaptError(
            f"{type(model).__name__} supports neither prompts nor NOAH's subnets",
            expected="timm's VisionTransformer or, for prompts, its SwinTransformer",
            fix="leave this baseline out",
        )
    return model.num_prefix_tokens, model.embed_dim

"""Prompts for attention over windows, as in timm's Swin."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ...errors import AdaptError
from .added import Block, Removable, Replaced

POSITION_BIAS = "_get_rel_pos_bias"
"""Method of timm's window attention that returns the position bias."""


class WindowPrompts(nn.Module):
    """Trained tokens that join the tokens of every window.

    A block normalises them like its other tokens. In every window, prompts and tokens attend to each other without
    position bias and without a mask between the two; the prompts' outputs are averaged over the windows, go through the
    rest of the block and enter the next one. Where 2 x 2 patches merge, a prompt takes the place of all four, as in the
    released code. After their last block the prompts are dropped.

    Args:
        length: Number of prompts.
        width: Width of a token.
        generator: Draws the initial prompts, Xavier uniform.
    """

    def __init__(self, length: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = (6 / (length + width)) ** 0.5
        self.tokens = nn.Parameter((torch.rand(length, width, generator=generator) * 2 - 1) * bound)
        self._now: Any = None  # during a forward pass: the prompts so far (batch, length, width)
        self._met: Any = None  # during a block: the prompts before attention, then their mean after it

    def tie(self, blocks: Sequence[Block], merges: Iterable[nn.Module]) -> list[Removable]:
        """Register the hooks of blocks, and of the layers that merge patches between them."""
        hooks: list[Removable] = [blocks[0].register_forward_pre_hook(self.begin)]
        for block in blocks:
            hooks += [
                block.register_forward_pre_hook(self.normalise),
                block.attn.register_forward_pre_hook(self.insert, with_kwargs=True),
                block.attn.register_forward_hook(self.average),
                Replaced(block.attn, POSITION_BIAS, functools.partial(self.position_bias, block.attn)),
            ]
        hooks += [block.register_forward_hook(self.proceed) for block in blocks[:-1]]
        hooks += [merge.register_forward_hook(self.merge) for merge in merges]
        return [*hooks, blocks[-1].register_forward_hook(self.end)]

    def refuse_recomputing(self, model: nn.Module, inputs: object) -> None:
        """Forward pre-hook: reject gradient checkpointing, as the prompts are dropped before blocks are recomputed."""
        if torch.is_grad_enabled() and any(getattr(module, "grad_checkpointing", False) for module in model.modules()):
            raise AdaptError(
                "shallow prompts on a Swin cannot be trained with gradient checkpointing",
                fix="use PromptTuning(deep=True), or call model.set_grad_checkpointing(False)",
            )

    def begin(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Forward pre-hook of the first block: expand the prompts over the batch."""
        x = inputs[0]
        self._now = self.tokens.to(x.dtype).expand(len(x), -1, -1)

    def normalise(self, block: Block, inputs: object) -> None:
        """Forward pre-hook of a block: normalise the prompts as the block does before its attention."""
        self._met = block.norm1(self._now)

    def insert(
        self, attention: nn.Module, inputs: tuple[Tensor], options: Mapping[str, Tensor | None]
    ) -> tuple[tuple[Tensor], dict[str, Tensor | None]]:
        """Forward pre-hook of attention: insert prompts before a window's tokens (batch x windows, tokens, width)."""
        (x,) = inputs
        prompts = self._met.repeat_interleave(len(x) // len(self._met), 0)
        mask = options["mask"]
        return (torch.cat([prompts, x], 1),), {"mask": None if mask is None else self._bordered(mask)}

    def position_bias(self, attention: nn.Module) -> Tensor:
        """Return the position bias (1, head, token, token) of prompts, which is zero, and a window's tokens."""
        return self._bordered(getattr(type(attention), POSITION_BIAS)(attention))

    def average(self, attention: nn.Module, inputs: object, output: Tensor) -> Tensor:
        """Forward hook of attention: remove the prompts from every window, and keep their mean over the windows."""
        length = len(self.tokens)
        by_image = output[:, :length].unflatten(0, (len(self._met), -1))  # type: ignore[no-untyped-call]  # torch's
        self._met = by_image.mean(1)
        return output[:, length:]

    def proceed(self, block: Block, inputs: object, output: object) -> None:
        """Forward hook of a block: apply to the prompts what the block does after its attention."""
        now = self._now + block.drop_path1(self._met)
        self._now = now + block.drop_path2(block.mlp(block.norm2(now)))

    def merge(self, merging: nn.Module, inputs: object, output: object) -> None:
        """Forward hook of patch merging: merge each prompt as if all 2 x 2 patches were copies of it."""
        patches = self._now[:, None].repeat_interleave(2, 1).repeat_interleave(2, 2)
        self._now = merging.forward(patches)[:, 0]

    def end(self, block: nn.Module, inputs: object, output: object) -> None:
        """Forward hook of the last block: drop the prompts."""
        self._now = self._met = None

    def _bordered(self, square: Tensor) -> Tensor:
        """Pad a mask or bias (..., token, token) with zeros for the prompts."""
        length = len(self.tokens)
        return pad(square, (length, 0, length, 0))

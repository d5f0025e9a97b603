"""Prompts in attention over windows, as in timm's Swin."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ...errors import AdaptError
from .added import Removable, Replaced


class WindowPrompts(nn.Module):
    """Trained tokens that join the tokens of every window.

    A block normalises them like its other tokens. Every window attends over them and its own tokens, without position
    bias and without a mask between the two; the windows' results are averaged and go through the rest of the block. So
    they live on from block to block. Where two by two patches merge, a prompt stands for all four, as in the released
    code. After their last block they are dropped.

    Args:
        length: How many.
        width: The width of a token.
        generator: What draws them, uniform as Xavier's for one token.
    """

    def __init__(self, length: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = (6 / (length + width)) ** 0.5
        self.tokens = nn.Parameter((torch.rand(length, width, generator=generator) * 2 - 1) * bound)
        self._now: Any = None  # (batch, length, width) inside a forward pass: what became of the prompts so far
        self._met: Any = None  # the same inside a block: normalised before attention, the windows' mean after it

    def tie(self, blocks: Sequence[Any], merges: Iterable[nn.Module]) -> list[Removable]:
        """Let the prompts pass through blocks, and through what merges patches between them."""
        hooks: list[Removable] = [blocks[0].register_forward_pre_hook(self.begin)]
        for block in blocks:
            hooks += [
                block.register_forward_pre_hook(self.normalise),
                block.attn.register_forward_pre_hook(self.insert, with_kwargs=True),
                block.attn.register_forward_hook(self.average),
                Replaced(block.attn, "_get_rel_pos_bias", functools.partial(self.position_bias, block.attn)),
            ]
        hooks += [block.register_forward_hook(self.proceed) for block in blocks[:-1]]
        hooks += [merge.register_forward_hook(self.merge) for merge in merges]
        return [*hooks, blocks[-1].register_forward_hook(self.end)]

    def refuse_recomputing(self, model: nn.Module, inputs: Any) -> None:
        """Refuse a pass whose blocks run again in the backward pass, each by itself: what it passed on is gone then."""
        if torch.is_grad_enabled() and any(getattr(module, "grad_checkpointing", False) for module in model.modules()):
            raise AdaptError(
                "prompts that live on from block to block cannot be trained under gradient checkpointing",
                fix="PromptTuning(deep=True), or no checkpointing: model.set_grad_checkpointing(False)",
            )

    def begin(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Give every image of a batch the prompts, before their first block."""
        x = inputs[0]
        self._now = self.tokens.to(x.dtype).expand(len(x), -1, -1)

    def normalise(self, block: Any, inputs: Any) -> None:
        """Do with the prompts what a block does before its attention."""
        self._met = block.norm1(self._now)

    def insert(self, attention: nn.Module, inputs: tuple[Tensor], options: dict[str, Any]) -> Any:
        """Put the prompts before the tokens of every window (batch x windows, tokens, width)."""
        (x,) = inputs
        prompts = self._met.repeat_interleave(len(x) // len(self._met), 0)
        mask = options["mask"]
        return (torch.cat([prompts, x], 1),), {"mask": None if mask is None else self._bordered(mask)}

    def position_bias(self, attention: Any) -> Tensor:
        """Return the position bias (1, head, token, token) of the prompts, which is zero, and of a window's tokens."""
        return self._bordered(type(attention)._get_rel_pos_bias(attention))

    def average(self, attention: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Take the prompts out of every window again, and keep their mean over an image's windows."""
        length = len(self.tokens)
        by_image = output[:, :length].unflatten(0, (len(self._met), -1))  # type: ignore[no-untyped-call]  # torch's
        self._met = by_image.mean(1)
        return output[:, length:]

    def proceed(self, block: Any, inputs: Any, output: Any) -> None:
        """Do with the prompts what a block does after its attention."""
        now = self._now + block.drop_path1(self._met)
        self._now = now + block.drop_path2(block.mlp(block.norm2(now)))

    def merge(self, merging: nn.Module, inputs: Any, output: Any) -> None:
        """Merge each prompt as if it stood on all of two by two patches."""
        patches = self._now[:, None].repeat_interleave(2, 1).repeat_interleave(2, 2)
        self._now = merging.forward(patches)[:, 0]

    def end(self, block: nn.Module, inputs: Any, output: Any) -> None:
        """Drop the prompts after their last block."""
        self._now = self._met = None

    def _bordered(self, square: Tensor) -> Tensor:
        """Put zeros for the prompts before the tokens of a mask or bias (..., token, token)."""
        length = len(self.tokens)
        return pad(square, (length, 0, length, 0))

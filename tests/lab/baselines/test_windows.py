"""Prompts in Swin's windows: they act as tokens, train, and can be removed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tensorfact.errors import AdaptError
from tensorfact.lab.baselines import PromptTuning
from tensorfact.storage.files import read_tensors
from tests.helpers import bits, difference, infer, randomise, refused, snapshot, untouched
from tests.lab.baselines.models import swin

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def windowed() -> nn.Module:
    """A Swin with shifted windows in two of its stages, and no number that hides an effect."""
    return randomise(swin(depths=(2, 1, 2, 1)))


@pytest.mark.parametrize("deep", [False, True])
def test_prompts_in_windows_train_come_off_and_are_copied(deep: bool, tmp_path: Path) -> None:
    model = windowed()
    base = infer(model, X)
    with untouched(model):
        trained = PromptTuning(3, deep).attach(model, seed=0)
        assert trained.num_parameters == 3 * (2 * 12 + 24 + 2 * 48 + 96 if deep else 12)
        trained.save(tmp_path / "file")
        stored = sum(tensor.numel() for tensor in read_tensors(tmp_path / "file").values())
        assert stored == trained.num_parameters + 96 * 5 + 5
        copied: Any = copy.deepcopy(model)
        prompted = infer(model, X)
        assert bits(infer(copied, X)) == bits(prompted) != bits(base)
        loss: Any = model(X).square().mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.ne(0).all() for p in trained.parameters())
        trained.remove()
    assert bits(infer(model, X)) == bits(base)
    assert bits(infer(copied, X)) == bits(prompted)
    copied.baseline.remove()
    assert snapshot(copied) == snapshot(model)
    assert bits(infer(copied, X)) == bits(base)


@pytest.mark.parametrize("deep", [False, True])
def test_without_prompts_windows_are_as_they_were(deep: bool) -> None:
    model = windowed()
    base = infer(model, X)
    trained: Any = PromptTuning(1, deep).attach(model, seed=0)
    for prompts in trained:
        prompts.tokens = nn.Parameter(prompts.tokens[:0])
    assert bits(infer(model, X)) == bits(base)


@pytest.mark.parametrize("deep", [False, True])
def test_the_order_of_prompts_and_of_images_does_not_matter(deep: bool) -> None:
    model = windowed()
    trained = PromptTuning(4, deep).attach(model, seed=0)
    ahead = infer(model, X)
    assert difference(infer(model, X.flip(0)).flip(0), ahead) < 1e-5
    with torch.no_grad():
        for tokens in trained.parameters():
            tokens.copy_(tokens.flip(0))
    assert difference(infer(model, X), ahead) < 1e-5


def test_under_checkpointing_only_deep_prompts_train_in_windows() -> None:
    shallow: Any = windowed()
    plain, recomputed = [copy.deepcopy(shallow) for _ in range(2)]
    PromptTuning(2).attach(shallow, seed=0)
    shallow.set_grad_checkpointing()
    with refused(AdaptError, "checkpointing"):
        shallow(X)
    assert infer(shallow, X).isfinite().all()
    trained: list[Any] = [PromptTuning(2, deep=True).attach(model, seed=0) for model in (plain, recomputed)]
    recomputed.set_grad_checkpointing()
    for model in (plain, recomputed):
        model(X).square().mean().backward()
    for a, b in zip(*(each.parameters() for each in trained), strict=True):
        assert difference(b.grad, a.grad) < 1e-5


def attended(block: Any, tokens: Any, bias: Tensor) -> Any:
    """Return what a block makes of tokens (batch, tokens, width), all in one window, by torch's own attention."""
    attention = block.attn
    q, k, v = attention.qkv(block.norm1(tokens)).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = nn.functional.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)
    tokens = tokens + attention.proj(mixed)
    return tokens + block.mlp(block.norm2(tokens))


def test_prompts_are_tokens_of_a_window_that_live_on_through_blocks_and_merges() -> None:
    """Where every stage is one window, a prompted Swin is a plain transformer on prompts and patches."""
    model: Any = randomise(swin(depths=(1, 1, 1, 2), window_size=8, img_size=32))
    x = X[..., :32, :32]
    trained: Any = PromptTuning(3).attach(model, seed=0)
    assert all(block.window_size == block.input_resolution for layer in model.layers for block in layer.blocks)
    found = infer(model, x)
    trained.remove()
    with torch.no_grad():
        patches = model.patch_embed(x)
        prompts = trained[0].tokens.expand(2, -1, -1)
        for layer in model.layers:
            if layer.downsample is not model.layers[0].downsample:
                grid = prompts[:, :, None, None].expand(-1, -1, 2, 2, -1)
                prompts = torch.stack([layer.downsample(one)[:, 0, 0] for one in grid.unbind(1)], 1)
                patches = layer.downsample(patches)
            for block in layer.blocks:
                bias = nn.functional.pad(block.attn._get_rel_pos_bias(), (3, 0, 3, 0))
                tokens = attended(block, torch.cat([prompts, patches.flatten(1, 2)], 1), bias)
                prompts, patches = tokens[:, :3], tokens[:, 3:].unflatten(1, patches.shape[1:3])
        expected = model.head(model.norm(patches))
    assert difference(found, expected) < 1e-5

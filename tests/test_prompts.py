"""Prompts: the paper's lengths and sizes, and what they do in Swin's windows."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from tensorfact.errors import AdaptError, DataError
from tensorfact.lab.baselines import PromptTuning, prompt_length
from tensorfact.lab.data import VTAB
from tensorfact.lab.models import model_shapes
from tensorfact.storage.files import read_tensors

from .helpers import bits, difference, infer, randomise, refused, snapshot, untouched
from .test_baselines import swin

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
SHALLOW: tuple[float, ...] = (0.18, 0.10, 0.04, 0.27, 0.08, 0.19, 0.36, 0.01, 0.05, 0.09, 0.01)
SHALLOW += (0.10, 0.18, 0.09, 0.09, 0.10, 0.10, 0.19, 0.19)
DEEP: tuple[float, ...] = (0.20, 0.20, 0.15, 0.10, 0.04, 0.54, 0.41, 1.06, 1.07, 0.15, 0.02)
DEEP += (0.54, 2.11, 1.07, 0.54, 0.12, 0.55, 2.12, 2.11)
GROUPS = ("natural", "specialized", "structured")


def windowed() -> nn.Module:
    """A Swin with shifted windows in two of its stages, and no number that hides an effect."""
    return randomise(swin(depths=(2, 1, 2, 1)))


def count(family: Literal["vit", "swin"], task: str, deep: bool) -> int:
    name = {"vit": "vit_base_patch16_224", "swin": "swin_base_patch4_window7_224"}[family]
    method = PromptTuning(prompt_length(task, deep=deep, family=family), deep)
    return method.attach(model_shapes(name), seed=0).num_parameters


def mean_size(counts: Iterable[tuple[str, int]]) -> float:
    """Return what a table prints of counts by task: millions, a mean of the groups' means, all to three places."""
    by_task = dict(counts)
    means = [fmean(n for name, n in by_task.items() if VTAB[name].group == group) / 1e6 for group in GROUPS]
    return round(fmean(round(mean, 3) for mean in means), 3)


@pytest.mark.parametrize(("deep", "published"), [(False, 0.063), (True, 0.531)])
def test_the_papers_lengths_have_the_published_mean_size(deep: bool, published: float) -> None:
    per_token = count("vit", "cifar", deep) // prompt_length("cifar", deep=deep)
    assert per_token == 768 * (12 if deep else 1)
    assert mean_size((name, per_token * prompt_length(name, deep=deep)) for name in VTAB) == published


@pytest.mark.parametrize(("deep", "shares"), [(False, SHALLOW), (True, DEEP)])
def test_the_papers_lengths_give_the_shares_that_the_paper_prints(deep: bool, shares: tuple[float, ...]) -> None:
    """Numbers that train, head included, in percent of all, for every task on ViT-B/16."""
    for (name, task), share in zip(VTAB.items(), shares, strict=True):
        assert task.classes is not None
        trained = task.classes * 769 + prompt_length(name, deep=deep) * 768 * (12 if deep else 1)
        assert round(100 * trained / (85_798_656 + trained), 2) == share, name


@pytest.mark.parametrize(("deep", "per_token", "published"), [(False, 128, 0.003), (True, 12_032, 0.162)])
def test_the_lengths_on_swin_have_the_published_mean_size(deep: bool, per_token: int, published: float) -> None:
    lengths = {name: prompt_length(name, deep=deep, family="swin") for name in VTAB}
    assert count("swin", "svhn", deep) == lengths["svhn"] * per_token
    assert mean_size((name, length * per_token) for name, length in lengths.items()) == published


def test_a_task_or_family_that_is_none_is_refused() -> None:
    with refused(DataError, "did you mean 'cifar'", fix=False):
        prompt_length("cifra", deep=True)
    with refused(DataError, "family", "'resnet'", fix=False):
        prompt_length("cifar", deep=True, family="resnet")  # type: ignore[arg-type]
    with refused(DataError, "deep", 2, fix=False):
        prompt_length("cifar", deep=2)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- Swin's windows


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

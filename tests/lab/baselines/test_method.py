"""Every baseline has its published size, starts at the base model, trains, and can be removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tensorfact import compare, lab
from tensorfact.errors import AdaptError
from tensorfact.lab import digits
from tensorfact.lab.baselines import (
    BASELINES,
    AdaptFormer,
    BitFit,
    BottleneckAdapters,
    FullFineTuning,
    LinearProbe,
    Method,
    PromptTuning,
)
from tensorfact.lab.models import model_shapes
from tensorfact.storage.files import read_tensors
from tests.helpers import bits, infer, refused, snapshot
from tests.lab.baselines.models import METHODS, X, small, swin


@pytest.mark.parametrize(
    ("method", "count"),
    [
        (LinearProbe(), 0),
        (FullFineTuning(), 85_798_656),
        (BitFit(), 102_912),
        (BottleneckAdapters(8), 156_768),
        (AdaptFormer(8), 156_768),
        (PromptTuning(50), 50 * 768),
        (PromptTuning(50, deep=True), 12 * 50 * 768),
    ],
    ids=lambda value: value.label if hasattr(value, "label") else str(value),
)
def test_the_count_is_the_published_one(method: Method, count: int) -> None:
    assert method.attach(model_shapes("vit_base_patch16_224"), seed=0).num_parameters == count


@pytest.mark.parametrize("name", METHODS)
def test_a_baseline_trains_what_it_counts_and_the_head(name: str) -> None:
    model = small()
    trained = METHODS[name]().attach(model, seed=0)
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert numbers == trained.num_parameters + 24 * 5 + 5
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    seen: set[str] = set()
    for _ in range(2):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        seen |= {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    wanted = {name for name, p in model.named_parameters() if p.requires_grad}
    assert seen == wanted


@pytest.mark.parametrize("name", ["linear", "bitfit", "full", "adapter", "adaptformer"])
@pytest.mark.parametrize("make", [small, swin])
def test_a_fresh_baseline_changes_no_bit(name: str, make: Callable[[], nn.Module]) -> None:
    model = make()
    x = X if make is small else torch.randn(1, 3, 64, 64)
    base = infer(model, x)
    METHODS[name]().attach(model, seed=0)
    assert bits(infer(model, x)) == bits(base)


@pytest.mark.parametrize("name", METHODS)
def test_a_baseline_comes_off_again(name: str, tmp_path: Path) -> None:
    model = small()
    before, base = snapshot(model), infer(model, X)
    trained = METHODS[name]().attach(model, seed=0)
    trained.save(tmp_path / "file")
    projections = ("base_model.vera_A", "base_model.vera_B")  # VeRA's, which are frozen
    stored = sum(tensor.numel() for key, tensor in read_tensors(tmp_path / "file").items() if key not in projections)
    assert stored == trained.num_parameters + 24 * 5 + 5
    trained.remove()
    assert snapshot(model) == before
    assert bits(infer(model, X)) == bits(base)


@pytest.mark.parametrize("name", METHODS)
def test_attaching_leaves_the_random_state_alone(name: str) -> None:
    model = small()
    state = bits(torch.get_rng_state())
    METHODS[name]().attach(model, seed=0)
    assert bits(torch.get_rng_state()) == state


def test_baselines_are_rows_of_a_comparison() -> None:
    model = lab.nano()
    rows: list[Any] = [BitFit(), BottleneckAdapters(4), AdaptFormer(4), PromptTuning(3)]
    found = compare(model, digits(model, train=16, val=8, test=50), [], seeds=[0], epochs=1, baselines=rows)
    assert [row.label for row in found.rows] == ["bitfit", "adapter h=4", "adaptformer h=4", "vpt-shallow p=3"]


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "3", None, True])
@pytest.mark.parametrize("name", ["adapter", "adaptformer", "vpt-shallow", "vpt-deep"])
def test_a_size_that_is_none_is_refused(name: str, wrong: object) -> None:
    with refused(AdaptError, repr(wrong)):
        BASELINES[name](wrong)
    with refused(AdaptError, "scale", "nan"):
        AdaptFormer(scale=float("nan"))

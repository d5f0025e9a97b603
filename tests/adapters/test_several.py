"""Several adapters on one model: those in use are added, and whatever is switched, parameters and base stay theirs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tensorfact import CP, Format, TensorizationPlan, TensorTrain, Tucker, adapt
from tensorfact.adapters.factors import Factors
from tensorfact.adapters.options import AdaptOptions
from tensorfact.adapters.several import Several
from tensorfact.errors import AdaptError, RankError
from tests.helpers import (
    TOLERANCE,
    Tiny,
    bits,
    difference,
    ids,
    infer,
    one_rule,
    qkv_plan,
    randomise,
    refused,
    state_bits,
    untouched,
)

PLANS: dict[str, tuple[TensorizationPlan, Format]] = {
    "qkv": (qkv_plan(), TensorTrain(2)),
    "q and v": (qkv_plan("q", None, "v"), CP(3)),
    "head": (one_rule("head.weight"), Tucker(2)),
}
NAMES = tuple(PLANS)


def tiny(dtype: torch.dtype = torch.float32, *, read: bool = False) -> Tiny:
    return randomise(Tiny(read=read)).to(dtype).eval()


def added(several: Several, name: str, seed: int = 0) -> nn.ModuleDict:
    """Add an adapter whose cores are all random, and return its factors."""
    plan, format = PLANS[name]
    factors = nn.ModuleDict(several.add(name, plan, format, 0.5, AdaptOptions(seed=seed)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for core in factors.parameters():
            core.copy_(torch.randn(core.shape, generator=generator) / 2)
    return factors


def alone(name: str, factors: nn.ModuleDict, model: nn.Module) -> torch.Tensor:
    """Return the output of a model with one adapter of `adapt`."""
    plan, format = PLANS[name]
    adapter = adapt(model, plan, format, scale=0.5, train_head=False, check=False)
    for tensor, own in factors.items():
        cast("Factors", adapter.factors[tensor]).assign(cast("Factors", own).named_cores())
    found = infer(model, ids())
    adapter.remove()
    return found


@pytest.mark.parametrize("read", [False, True])
@settings(max_examples=15)
@given(st.lists(st.lists(st.sampled_from(NAMES), unique=True), min_size=1, max_size=4))
def test_what_is_in_use_is_added_and_nothing_else(read: bool, uses: list[list[str]]) -> None:
    model = tiny(torch.float64, read=read)
    single, holder = copy.deepcopy(model), nn.Module()
    several = Several(model, holder)
    factors = {name: added(several, name) for name in NAMES}
    for used in uses:
        several.use(used)
        found = infer(model, ids())
        if not used:
            assert bits(found) == bits(infer(single, ids()))
        elif len(used) == 1:
            assert bits(found) == bits(alone(used[0], factors[used[0]], single))
        else:
            assert difference(found, merged_by_hand(used, factors)) < TOLERANCE[torch.float64]


def merged_by_hand(names: Sequence[str], factors: dict[str, nn.ModuleDict]) -> torch.Tensor:
    model = tiny(torch.float64)
    for name in names:
        adapter = adapt(model, *PLANS[name], scale=0.5, train_head=False, check=False)
        for tensor, own in factors[name].items():
            cast("Factors", adapter.factors[tensor]).assign(cast("Factors", own).named_cores())
        adapter.merge()
        adapter.remove()
    return infer(model, ids())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_in_any_order_and_unmerged_bit_for_bit(dtype: torch.dtype) -> None:
    model, holder = tiny(dtype), nn.Module()
    several, before = Several(model, holder), state_bits(model)
    for name in NAMES:
        added(several, name)
    several.use(NAMES)
    used = infer(model, ids())
    several.merge(["q and v"])
    several.merge(["head", "qkv"])
    assert several.merged == ("q and v", "head", "qkv")
    assert difference(infer(model, ids()), used) < TOLERANCE[dtype]
    with refused(AdaptError, "head"):
        several.merge(["head"])
    several.unmerge()
    assert state_bits(model) == before
    several.merge(["head"])


def test_gradients_reach_all_that_is_in_use_and_survive_a_switch() -> None:
    model, holder = tiny(), nn.Module()
    several = Several(model, holder)
    factors = {name: added(several, name) for name in NAMES}
    for used in (NAMES, ("head",), NAMES):
        several.use(used)
        model(ids()).square().sum().backward()
        for name, own in factors.items():
            trained = [core.grad is not None and bool(core.grad.any()) for core in own.parameters()]
            assert trained == [name in used] * len(trained)
            own.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_leaving_brings_back_the_model() -> None:
    model = tiny()
    with untouched(model):
        several = Several(model, nn.Module())
        assert not any(p.requires_grad for p in model.parameters())
        for name in NAMES:
            added(several, name)
        several.use(NAMES)
        several.discard("qkv")
        assert several.parameters("head") == ("head.weight",)
        several.leave()


def test_what_does_not_fit_changes_nothing() -> None:
    model = tiny()
    several = Several(model, nn.Module())
    added(several, "qkv")
    several.use(["qkv"])
    with untouched(model), refused(RankError, "rank=9"):
        several.add("wide", one_rule("head.weight"), TensorTrain(9), 1.0, AdaptOptions(seed=0))
    with refused(AdaptError, "adapted already"):
        Several(model, nn.Module())


def test_a_core_that_is_not_finite_is_not_merged() -> None:
    model = tiny()
    several, before = Several(model, nn.Module()), state_bits(model)
    broken = added(several, "head")
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with refused(AdaptError, "NaN"):
        several.merge(["head"])
    assert state_bits(model) == before

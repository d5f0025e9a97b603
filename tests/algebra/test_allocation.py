"""Ranks within a budget: the laws of the search, and the tensors and bonds that it prefers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tensorfact import Adapter, Format, Group, Rule, TensorizationPlan, TensorTrain, Tucker, adapt, round_ranks
from tensorfact.errors import RankError
from tensorfact.formats import BlockTerm
from tensorfact.network import dense_of
from tensorfact.storage import AdapterState
from tests.helpers import layers, refused, untouched
from tests.strategies import FORMATS


def adapted(format: Format, *, apart: bool = False, seed: int = 0) -> tuple[nn.Module, Adapter]:
    """Return a model of three layers whose increments are random, of falling energy: one tensor, or one per layer."""
    model = layers(3)
    rules = (Rule("{layer}.weight", "out in"),)
    group = Group("g", "in out", rules, partition="layer") if apart else Group("g", "layer in out", rules)
    adapter = adapt(model, TensorizationPlan((group,)), format, check=False, seed=0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for at, core in enumerate(adapter.parameters()):
            fading = torch.logspace(0, -1 - at % 3, core.shape[-1])
            core.copy_(torch.randn(core.shape, generator=generator) * fading)
    return model, adapter


def squared(state: AdapterState, errors: list[float]) -> float:
    """Return the squared error of all increments, scales included."""
    norms = [scale * norm(state, name) for name, scale in state.description.scales.items()]
    return sum((norm * error) ** 2 for norm, error in zip(norms, errors, strict=True))


def norm(state: AdapterState, name: str) -> float:
    return float(dense_of(state.network(name), state.cores(name)).norm())


@pytest.mark.parametrize("apart", [False, True], ids=["one tensor", "a tensor for each layer"])
@pytest.mark.parametrize("kind", FORMATS)
@given(budget=st.integers(30, 300), seed=st.integers(0, 9))
@settings(max_examples=5)
def test_a_budget_is_kept_and_the_error_is_at_most_that_of_the_even_split(
    kind: Any, apart: bool, budget: int, seed: int
) -> None:
    _, adapter = adapted(kind(3), apart=apart, seed=seed)
    state = adapter.state
    try:
        even = round_ranks(state, budget=budget)
    except RankError:
        with refused(RankError, f"{budget:,}", "at rank 1"):
            round_ranks(state, budget=budget, spread="energy")
        return
    found = round_ranks(state, budget=budget, spread="energy")
    assert found.parameters <= budget
    errors = [squared(state, [change.error for change in each.changes]) for each in (found, even)]
    assert errors[0] <= errors[1] * (1 + 1e-4) + 1e-10
    if state.num_parameters <= budget:
        assert max(change.error for change in found.changes) == 0
        assert {name: str(format) for name, format in found.state.description.formats.items()} == {
            name: str(format.explicit(state.description.modes[name]))
            for name, format in state.description.formats.items()
        }


def test_ranks_go_to_the_tensor_that_needs_them() -> None:
    model, adapter = adapted(TensorTrain(4), apart=True)
    with torch.no_grad():
        for name, core in adapter.named_cores().items():
            if not name.startswith("g[1]"):
                core[..., 1:].zero_() if name.endswith("U") else core[1:].zero_()
    expected = {name: adapter.delta(name) for name in ("0.weight", "1.weight", "2.weight")}
    even = round_ranks(adapter, budget=adapter.num_parameters // 2)
    assert max(change.error for change in even.changes) > 1e-3
    found = adapter.round(budget=adapter.num_parameters // 2, spread="energy")
    assert [change.format for change in found.changes] == [TensorTrain(1), TensorTrain(4), TensorTrain(1)]
    assert all(torch.allclose(adapter.delta(name), delta, atol=1e-5) for name, delta in expected.items())
    assert model(torch.ones(2, 6)).shape == (2, 6)


def test_the_scale_of_a_tensor_counts() -> None:
    chosen = []
    for scales in ({"g[0]": 100.0, "g[1]": 1.0, "g[2]": 1.0}, {"g[0]": 1.0, "g[1]": 1.0, "g[2]": 100.0}):
        model = layers(3)
        plan = TensorizationPlan((Group("g", "in out", (Rule("{layer}.weight", "out in"),), partition="layer"),))
        adapter = adapt(model, plan, TensorTrain(4), scale=scales, check=False, seed=0)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for core in adapter.parameters():
                core.copy_(torch.randn(core.shape, generator=generator))
        found = round_ranks(adapter, budget=adapter.num_parameters // 2, spread="energy")
        chosen.append([change.parameters for change in found.changes])
    assert chosen[0][0] == max(chosen[0])
    assert chosen[1][2] == max(chosen[1])


def test_bonds_of_one_tensor_get_ranks_of_their_own() -> None:
    _, adapter = adapted(Tucker(3))
    found = round_ranks(adapter, budget=adapter.num_parameters - 8, spread="energy")
    [change] = found.changes
    assert len(set(change.format.rank)) > 1  # type: ignore[attr-defined]


def test_formats_fitted_by_least_squares_keep_one_rank() -> None:
    _, adapter = adapted(BlockTerm(2))
    [change] = round_ranks(adapter, budget=adapter.num_parameters // 2, spread="energy").changes
    assert change.format in (BlockTerm(1), BlockTerm((1, 1, 1)))


def test_a_fresh_adapter_is_split_evenly() -> None:
    adapter = adapt(
        layers(3), TensorizationPlan((Group("g", "layer in out", (Rule("{layer}.weight", "out in"),)),)), TensorTrain(4)
    )
    budget = adapter.num_parameters - 1
    assert round_ranks(adapter, budget=budget, spread="energy").changes == round_ranks(adapter, budget=budget).changes


def test_a_wrong_spread_is_refused() -> None:
    model, adapter = adapted(TensorTrain(3))
    with untouched(model):
        with refused(RankError, "round_ranks: spread", "'energy'"):
            adapter.round(budget=100, spread="odd")  # type: ignore[arg-type]
        with refused(RankError, "needs a budget", "budget=20000"):
            adapter.round(rank=2, spread="energy")

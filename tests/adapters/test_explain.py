"""`Adapter.explain`: predicted and measured times of all kinds of adapted parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from torch import nn

from tensorfact import Adapter, TensorTrain, adapt, plan_by_shape, plan_for
from tensorfact.errors import AdaptError
from tensorfact.lab import nano
from tests.helpers import TT, layers, layers_plan, refused
from tests.strategies import Adaptation, adaptations


def convolution(kernel: int = 3) -> tuple[nn.Module, Adapter]:
    model = nn.Sequential(*(nn.Conv2d(8, 8, kernel, padding="same") for _ in range(2)))
    return model, adapt(model, plan_by_shape(model), TensorTrain(2), train_head=False)


FIGURES: dict[str, tuple[str, int, int, int, int | None]] = {
    # x (64 x 8) times U (8 x 2), S1 (2 x 2) and V (2 x 8); the layers form S1 V once
    "activation": ("x (U) (S1 V)", 2 * 2048, 2048 + 512 + 2048, 64 * 2, None),
    # U (8 x 2) times S1 V, and the sum; x times it is the base layer's own product. Backward, the narrow products
    "formed": ("x (W + s (U) (S1 V))", 256 + 64, 2048 + 512 + 2048, 64, None),
    # U (8 x 2) times S1 (2 x 2) and V (2 x 8), forward and two times backward; the sum; the gradient of the weight
    "weight": ("U S1 -> [in _2], V (U S1) -> [out in]", 64 + 256, 64 + 256, 64, 3 * 320 + 64 + 2 * 8 * 64 * 8),
}
"""The order, the FLOPs, those of the naive order, the largest intermediate and the FLOPs of a step, counted by hand."""


@pytest.mark.parametrize("route", FIGURES)
def test_two_linear_layers_cost_what_is_counted_by_hand(route: Any) -> None:
    adapter = adapt(layers(2, 8).double(), layers_plan(), TensorTrain(2), route=route, check=False)
    explanation = adapter.explain(50)
    (choice,) = explanation.choices
    order, flops, naive, largest, step = FIGURES[route]
    assert (choice.parameters, choice.route, choice.order) == (("0.weight", "1.weight"), route, order)
    assert (choice.flops, choice.naive_flops, choice.largest_intermediate) == (flops, naive, largest)
    assert choice.cost.flops == (step or choice.cost.flops)
    assert (explanation.tokens, explanation.flops, choice.itemsize, choice.measured) == (64, 2 * flops, 8, None)
    cells = [cell.strip() for cell in str(explanation).splitlines()[3].split("|")[1:-1]]
    assert cells[:6] == ["0.weight and 1 more", route, order, f"{flops:,}", f"{naive:,}", f"{choice.cost.flops:,}"]
    assert [float(cell) for cell in cells[6:8]] == pytest.approx(
        [8 * choice.cost.moved / 1e6, 8 * choice.cost.kept / 1e6], rel=1e-2
    )
    assert cells[8:10] == [str(choice.cost.launches), f"{1e3 * choice.predicted:.3g} ms"]
    other = {"activation": "formed", "formed": "activation", "weight": None}[route]
    assert (choice.otherwise and choice.otherwise.route) == other
    assert cells[10:] == ([f"{other}: {1e3 * choice.otherwise.predicted:.3g} ms"] if choice.otherwise else [])
    assert "measured" not in str(explanation)


def test_measured_is_a_time_where_asked_for() -> None:
    model = nano()
    adapter = adapt(model, plan_for(model), TensorTrain(4))
    assert all(choice.measured is None for choice in adapter.explain(64).choices)
    for choice in adapter.explain(64, measure=True).choices:
        assert isinstance(choice.measured, float)
        assert choice.predicted > 0
        assert choice.otherwise is not None
        assert {choice.route, choice.otherwise.route} == {"activation", "formed"}
        assert isinstance(choice.otherwise.measured, float)
    assert "measured" in str(adapter.explain(64, measure=True))
    assert all(core.grad is None for core in adapter.parameters())


@pytest.mark.parametrize("frozen", [False, True])
def test_a_convolution_is_measured_frozen_or_not(frozen: bool) -> None:
    _, adapter = convolution()
    adapter.requires_grad_(not frozen)
    with torch.inference_mode():
        (choice,) = adapter.explain(64, measure=True).choices
    assert choice.route == "formed"
    assert choice.measured is not None
    assert choice.otherwise is not None
    assert choice.otherwise.measured is not None


def test_a_model_without_numbers_is_not_measured() -> None:
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(2)))
    adapter = adapt(model, plan_by_shape(model), TensorTrain(2), train_head=False)
    assert adapter.explain().choices
    with refused(AdaptError, "measure=True", "meta"):
        adapter.explain(measure=True)


def test_a_convolution_of_one_position_costs_what_the_matrix_costs() -> None:
    def cost(layers: list[nn.Module]) -> tuple[int, int]:
        model = nn.Sequential(*layers)
        adapter = adapt(model, plan_by_shape(model), TensorTrain(2), route="weight", train_head=False)
        (choice,) = adapter.explain(64).choices
        return choice.cost.flops, choice.cost.moved

    assert cost([nn.Conv2d(8, 8, 1) for _ in range(2)]) == cost([nn.Linear(8, 8) for _ in range(2)])


@given(adaptations())
def test_the_explanation_counts_every_parameter_once(adaptation: Adaptation) -> None:
    _, adapter = adaptation.fresh()
    for tokens in (1, 100, 4096):
        explanation = adapter.explain(tokens)
        named = [name for choice in explanation.choices for name in choice.parameters]
        assert sorted(named) == sorted(adapter.resolved.parameters)
        assert explanation.tokens == 1 << (tokens - 1).bit_length()
        assert explanation.flops == sum(choice.flops * len(choice.parameters) for choice in explanation.choices)
        assert f"{explanation.flops:,} FLOPs" in str(explanation)
        assert all(choice.order in str(explanation) for choice in explanation.choices)


@pytest.mark.parametrize("tokens", [0, -1, 1.5, True, "1", None])
def test_tokens_are_a_count(tokens: Any) -> None:
    adapter = adapt(layers(), layers_plan(), TT)
    with refused(AdaptError, "tokens", repr(tokens), fix=False):
        adapter.explain(tokens)


@pytest.mark.parametrize("tokens", [2**41, 2**63, 10**30])
def test_more_tokens_than_any_model_takes_are_refused(tokens: int) -> None:
    adapter = adapt(layers(), layers_plan(), TT, check=False)
    with refused(AdaptError, "explain: tokens", tokens):
        adapter.explain(tokens)


def test_measuring_draws_no_random_numbers_of_the_program() -> None:
    adapter = adapt(layers(), layers_plan(), TensorTrain(2), dropout=0.5, check=False)
    before = torch.get_rng_state()
    adapter.explain(64, measure=True)
    assert torch.equal(before, torch.get_rng_state())


def test_too_many_tokens_to_measure_are_refused() -> None:
    adapter = adapt(layers(), layers_plan(), TensorTrain(2), check=False)
    assert adapter.explain(1 << 40).tokens == 1 << 40
    with refused(AdaptError, "explain: tokens, with measure=True", "131,072"):
        adapter.explain(1 << 40, measure=True)


@pytest.mark.parametrize("measure", ["yes", None, torch.ones(2), 5])
def test_whether_to_measure_is_a_bool(measure: Any) -> None:
    adapter = adapt(layers(), layers_plan(), TT, check=False)
    with refused(AdaptError, "explain: measure"):
        adapter.explain(measure=measure)

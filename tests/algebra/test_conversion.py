"""Conversion, rounding and addition of adapters, compared with the dense increments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tensorfact import (
    CP,
    AdapterState,
    MatrixBatch,
    TensorTrain,
    Tucker,
    adapt,
    combine,
    convert,
    load_adapter,
    plan_for,
    round_ranks,
)
from tensorfact.algebra.term import terms_of
from tensorfact.errors import AdaptError, DataError, FingerprintError, FormatError, PlanError, RankError
from tensorfact.formats import Each, KhatriRao, Nested
from tensorfact.lab import nano
from tests.helpers import (
    deltas,
    difference,
    distance,
    draw,
    ids,
    infer,
    layers,
    layers_plan,
    randomise,
    refused,
    stacked,
    state_bits,
    untouched,
)
from tests.strategies import EXACT, FORMATS, Adaptation, adaptations

# -------------------------------------------------------------------------------------------------------------- convert


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=10)
@given(adaptation=adaptations())
def test_converting_at_full_rank_changes_nothing(kind: Any, adaptation: Adaptation) -> None:
    """For plans with partitions, digits, frozen slots and tied modes, of one to five modes."""
    model, adapter = adaptation.drawn(torch.float64)
    before, expected, base = infer(model, ids()), deltas(adapter), state_bits(model)
    found = adapter.convert(kind("full"))
    assert max(change.error for change in found.changes) < 1e-9
    assert distance(adapter, expected) < 1e-9
    assert difference(infer(model, ids()), before) < 1e-8
    after = state_bits(model)
    assert all(after[name] == value for name, value in base.items() if not name.startswith("tensorfact."))
    assert {type(format) for format in adapter.formats.values()} == {kind}
    assert adapter.num_parameters == found.parameters == sum(f.numel() for f in adapter.parameters())


@settings(max_examples=10)
@given(adaptation=adaptations(kinds=[TensorTrain]))
def test_a_train_goes_to_tucker_and_back(adaptation: Adaptation) -> None:
    _, adapter = adaptation.drawn(torch.float64)
    expected, formats = deltas(adapter), adapter.formats
    adapter.convert(Tucker("full"))
    adapter.convert(formats)
    assert distance(adapter, expected) < 1e-9


# ---------------------------------------------------------------------------------------------------------------- round


@pytest.mark.parametrize("tolerance", [1e-3, 0.1, 0.5])
@settings(max_examples=10)
@given(adaptation=adaptations(kinds=EXACT))
def test_rounding_keeps_the_tolerance(tolerance: float, adaptation: Adaptation) -> None:
    _, adapter = adaptation.drawn(torch.float64)
    expected, numbers = deltas(adapter), adapter.num_parameters
    found = adapter.round(tolerance=tolerance)
    assert distance(adapter, expected) <= tolerance * (1 + 1e-9)
    assert adapter.num_parameters <= numbers
    assert max(change.error for change in found.changes) <= tolerance


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rank", [1, 2, 3, 99])
def test_rounding_never_raises_a_rank(kind: Any, rank: Any) -> None:
    _, adapter, _ = stacked(kind(3))
    expected, numbers = deltas(adapter), adapter.num_parameters
    adapter.round(rank=rank)
    assert adapter.num_parameters <= numbers
    assert (distance(adapter, expected) < 1e-9) == (rank not in (1, 2))


@pytest.mark.parametrize("kind", FORMATS)
@given(budget=st.integers(20, 400))
@settings(max_examples=10)
def test_a_budget_is_used_as_far_as_it_goes(kind: Any, budget: int) -> None:
    _, adapter, _ = stacked(kind(3))
    state, modes = adapter.state, adapter.resolved.tensors[0].modes
    if kind(1).num_parameters(modes) > budget:
        with refused(RankError, f"{budget:,}"):
            round_ranks(state, budget=budget)
        return
    found = round_ranks(state, budget=budget)
    assert found.parameters <= budget
    rank = found.changes[0].format.rank  # type: ignore[attr-defined]
    assert rank == 3 or kind(rank + 1).num_parameters(modes) > budget


def test_a_budget_is_shared_by_all_tensors() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3)
    adapter = adapt(model, plan_for(model), TensorTrain(8), check=False, seed=0)
    draw(adapter)
    found = adapter.round(budget=20_000)
    assert 0.5 * 20_000 < found.parameters <= 20_000
    assert len({change.format for change in found.changes}) == 1


@pytest.mark.parametrize(
    "arguments",
    [{}, {"rank": 2, "tolerance": 0.1}, {"rank": 1, "budget": 100}, {"rank": 0}, {"rank": 1.5}, {"tolerance": 2.0}],
    ids=str,
)
def test_what_rounding_cannot_mean_is_refused(arguments: dict[str, Any]) -> None:
    model, adapter, _ = stacked()
    with untouched(model), pytest.raises(RankError):
        adapter.round(**arguments)


@pytest.mark.parametrize("rank", ["full", 0.5, 1.0, (8, 9), (2, 9)])
def test_no_way_to_say_a_rank_raises_it(rank: Any) -> None:
    _, adapter, _ = stacked(TensorTrain(3))
    found = round_ranks(adapter, rank=rank)
    assert found.parameters <= adapter.num_parameters
    assert found.changes[0].format == TensorTrain((2, 3) if rank == (2, 9) else found.changes[0].format.rank)  # type: ignore[attr-defined]
    with pytest.raises(RankError):
        round_ranks(adapter, rank=(1, 1, 1))


def test_a_budget_reaches_ranks_above_every_mode() -> None:
    _, adapter, _ = stacked(CP(20))
    numbers = adapter.num_parameters
    assert round_ranks(adapter, budget=numbers - 1).changes[0].format == CP(19)
    assert round_ranks(adapter, budget=numbers).changes[0].format == CP(20)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_error_is_that_of_the_numbers_that_are_stored(dtype: torch.dtype) -> None:
    _, adapter, _ = stacked()
    adapter.to(dtype)
    expected = {name: delta.double() for name, delta in deltas(adapter).items()}
    found = convert(adapter, Tucker("full"))
    model = randomise(layers(4, 8)).double()
    true = distance(load_adapter(model, found.state, check=False), expected)
    assert found.changes[0].error == pytest.approx(true, rel=0.1, abs=3e-8)
    assert true < 1e-6
    with refused(RankError, "below the precision of the dtype"):
        convert(adapter, Tucker("full"), tolerance=1e-10)


# -------------------------------------------------------------------------------------------------------------- combine


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=10)
@given(adaptation=adaptations(kinds=FORMATS), weights=st.tuples(*[st.sampled_from([1.0, -1.0, 0.25, 0.0])] * 2))
def test_a_sum_is_the_dense_sum(kind: Any, adaptation: Adaptation, weights: tuple[float, float]) -> None:
    first, one = adaptation.drawn(torch.float64, seed=1)
    _, two = adaptation.drawn(torch.float64, seed=2)
    expected = {name: weights[0] * a + weights[1] * two.delta(name).detach() for name, a in deltas(one).items()}
    found = combine({one: weights[0], two: weights[1]})
    as_kind = combine({one: weights[0], two: weights[1]}, format=kind("full"))
    one.remove()
    for each in (found, as_kind):
        summed = load_adapter(first, each.state, check=False)
        if any(weights):
            assert distance(summed, expected) < 1e-9
        else:
            assert not any(delta.any() for delta in deltas(summed).values())
        summed.remove()


def test_a_format_without_a_rank_has_no_larger_one_for_a_sum() -> None:
    (_, one, _), (_, two, _) = stacked(KhatriRao(), seed=1), stacked(KhatriRao(), seed=2)
    with refused(FormatError, "KhatriRao", "pass the format of the sum"):
        combine({one: 1.0, two: 1.0})
    assert combine({one: 1.0, two: 1.0}, format=MatrixBatch("full")).changes[0].error < 1e-6


def test_a_sum_that_no_rank_holds_is_refused() -> None:
    (_, one, _), (_, two, _) = (stacked(Each(Nested(MatrixBatch(2), {"A": TensorTrain(1)})), seed=s) for s in (1, 2))
    with refused(FormatError, "cannot represent the sum exactly", "MatrixBatch"):
        combine({one: 1.0, two: 1.0})


def test_a_multiple_needs_no_rank() -> None:
    _, one, _ = stacked(KhatriRao(), seed=1)
    twice = combine({one: 2.0})
    assert twice.changes[0].error == 0
    assert difference(terms_of(twice.state, "stack")[0].dense(), 2 * terms_of(one.state, "stack")[0].dense()) < 1e-6


def test_ranks_add_and_scales_are_kept() -> None:
    (_, one, _), (_, two, _) = stacked(seed=1, scale=2.0), stacked(TensorTrain(2), seed=2, scale=0.5)
    found = combine({one: 0.5, two: -1.0})
    assert found.changes[0].format == TensorTrain(5)
    assert found.state.description.scales == {"stack": 2.0}
    rounded = combine({one: 0.5, two: -1.0}, tolerance=0.3)
    assert rounded.parameters < found.parameters
    assert rounded.changes[0].error <= 0.3
    assert combine({one: 0.5, two: -1.0}, rank=2).changes[0].format == TensorTrain(2)


def test_ranks_add_no_further_than_the_modes_allow() -> None:
    adapters = [stacked(MatrixBatch(5), seed=seed)[1] for seed in range(3)]
    expected = {name: sum(deltas(each)[name] for each in adapters) for name in deltas(adapters[0])}
    found = combine(dict.fromkeys(adapters, 1.0))
    assert found.changes[0].format == MatrixBatch(8)
    model, adapter, _ = stacked()
    adapter.remove()
    assert distance(load_adapter(model, found.state, check=False), cast("dict[str, Tensor]", expected)) < 1e-9


def test_files_combine_and_the_first_head_stays(tmp_path: Path) -> None:
    paths = []
    for seed in range(2):
        model = nano()
        adapter = adapt(model, plan_for(model), TensorTrain(2), seed=seed)
        draw(adapter, seed)
        with torch.no_grad():
            model.get_parameter("head.bias").fill_(seed + 1.0)
        adapter.save(tmp_path / f"{seed}.safetensors")
        paths.append(tmp_path / f"{seed}.safetensors")
    found = combine({paths[1]: 1.0, str(paths[0]): 1.0})
    assert float(found.state.head["head.bias"][0]) == 2.0
    assert not combine({paths[0]: 1.0}, keep_head=False).state.head
    found.save(tmp_path / "sum.safetensors")
    loaded = AdapterState.load(tmp_path / "sum.safetensors")
    assert loaded.num_parameters == found.parameters
    assert all(torch.equal(value, found.state.tensors[name]) for name, value in loaded.tensors.items())


def test_what_cancels_is_zero() -> None:
    _, one, _ = stacked()
    for options in ({}, {"tolerance": 0.1}, {"format": Tucker(2)}):
        found = combine({one: 1.0, one.state: -1.0}, **options)
        assert found.changes[0].error < 1e-6
        assert all(float(core.abs().max()) < 10 for core in found.state.cores("stack").values())
    assert combine({one: 1.0, one.state: -1.0}, tolerance=0.1).changes[0].format == TensorTrain((1, 1))


def test_numbers_that_are_none_are_not_added() -> None:
    (_, one, _), (_, bad, _) = stacked(), stacked()
    next(bad.parameters()).data.fill_(math.nan)
    with refused(DataError, "holds NaN"):
        combine({one: 1.0, bad: 1.0})
    with refused(DataError, "holds NaN"):
        convert(bad, CP(2))


def test_what_cannot_be_added_is_refused() -> None:
    (_, one, _), (_, other, _) = stacked(), stacked(count=3)
    with refused(PlanError, "layer=4", "layer=3"):
        combine({one: 1.0, other: 1.0})
    with refused(AdaptError, "none"):
        combine({})
    with refused(AdaptError, "list"):
        combine([one])  # type: ignore[arg-type]
    with refused(AdaptError, "got 5", fix=False):
        convert(5, CP(2))  # type: ignore[arg-type]
    for weight in (math.nan, math.inf, True, "1"):
        with refused(AdaptError, repr(weight)):
            combine({one: weight})  # type: ignore[dict-item]
    with refused(FormatError, "CP, TensorTrain"):
        combine({one: 1.0, stacked(CP(2))[1]: 1.0})
    with refused(AdaptError, "scale of 'stack' is 0"):
        model = layers(4, 8).double()
        combine({adapt(model, layers_plan(), CP(1), scale=0.0, check=False): 1.0})
    model = randomise(layers(4, 8), seed=7).double()
    foreign = adapt(model, layers_plan(), TensorTrain(3), check=False)
    with refused(FingerprintError, "base fingerprint"):
        combine({one: 1.0, foreign: 1.0})
    assert combine({one: 1.0, foreign: 1.0}, check_base=False).changes[0].format == TensorTrain(6)


@pytest.mark.parametrize("wrong", [None, 5, "progress", [1], torch.ones(2, 2)])
def test_a_callback_can_be_called(wrong: Any) -> None:
    state = adapt(layers(), layers_plan(), TensorTrain(2), check=False).state
    with refused(AdaptError, "progress"):
        convert(state, TensorTrain(1), progress=wrong)
    with refused(AdaptError, "progress"):
        round_ranks(state, rank=1, progress=wrong)
    with refused(AdaptError, "progress"):
        combine({state: 1.0}, progress=wrong)


@pytest.mark.parametrize("wrong", [None, "yes", 1, torch.ones(2, 2)])
@pytest.mark.parametrize("argument", ["keep_head", "check_base"])
def test_a_flag_is_a_bool(argument: str, wrong: Any) -> None:
    state = adapt(layers(), layers_plan(), TensorTrain(2), check=False).state
    with refused(AdaptError, f"combine: {argument}"):
        combine({state: 1.0}, **{argument: wrong})

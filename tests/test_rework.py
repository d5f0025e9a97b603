"""Adapters converted, rounded and combined: on a model, without one, as files."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tensorfact import (
    CP,
    Adapter,
    AdapterState,
    Format,
    Group,
    MatrixBatch,
    Rule,
    TensorizationPlan,
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
from tensorfact.errors import (
    AdaptError,
    CheckpointError,
    DataError,
    FingerprintError,
    FormatError,
    PlanError,
    RankError,
)
from tensorfact.formats import Each, KhatriRao, Nested
from tensorfact.lab import nano

from .helpers import difference, draw, ids, infer, layers, layers_plan, randomise, refused, state_bits, untouched
from .strategies import FORMATS, Adaptation, adaptations

EXACT: list[type[Format]] = [TensorTrain, Tucker, MatrixBatch]


def stack(
    format: Format | None = None, seed: int = 0, *, scale: float = 2.0, count: int = 4
) -> tuple[nn.Sequential, Adapter, Tensor]:
    """Return linear layers, adapted with factors that change the output, and an input."""
    model = randomise(layers(count, 8)).double()
    adapter = adapt(model, layers_plan(), format or TensorTrain(3), scale=scale, seed=seed, check=False)
    draw(adapter, seed, size=0.3 / scale)
    return model, adapter, torch.randn(5, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def deltas(adapter: Adapter) -> dict[str, Tensor]:
    return {name: adapter.delta(name).detach() for name in adapter.resolved.parameters}


def distance(found: Adapter, expected: dict[str, Tensor]) -> float:
    own = deltas(found)
    lost = math.sqrt(sum(float((own[name] - expected[name]).square().sum()) for name in expected))
    return lost / math.sqrt(sum(float(each.square().sum()) for each in expected.values()))


# ------------------------------------------------------------------------------------------------------------ convert


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


def test_a_converted_adapter_trains_saves_and_merges(tmp_path: Path) -> None:
    model, adapter, x = stack()
    old = list(adapter.parameters())
    adapter.convert(CP(6))
    new = list(adapter.parameters())
    assert not {id(p) for p in old} & {id(p) for p in new}
    assert {id(p) for p in model.parameters()} >= {id(p) for p in new}
    model(x).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in new)
    adapted = infer(model, x)
    adapter.save(tmp_path / "a.safetensors")
    adapter.merge()
    assert difference(infer(model, x), adapted) < 1e-12
    adapter.unmerge()
    adapter.remove()
    again = load_adapter(model, tmp_path / "a.safetensors", check=False)
    assert again.formats == {"stack": CP(6)}
    assert difference(infer(model, x), adapted) < 1e-12


def test_a_copy_is_converted_by_itself() -> None:
    model, adapter, x = stack()
    other: Any = copy.deepcopy(model)
    expected = infer(model, x)
    other.tensorfact.round(rank=1)
    assert torch.equal(infer(model, x), expected)
    assert difference(infer(other, x), expected) > 1e-3
    assert adapter.formats == {"stack": TensorTrain(3)}


def test_a_compiled_model_sees_the_new_factors() -> None:
    model, adapter, x = stack()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(x)
    adapter.round(rank=1)
    assert difference(compiled(x).detach(), infer(model, x)) < 1e-12


def test_one_format_a_group() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3)
    adapter = adapt(model, plan_for(model), TensorTrain(4), check=False, seed=0)
    draw(adapter)
    names = list(adapter.formats)
    found = adapter.convert({name: Tucker("full") if at else TensorTrain(4) for at, name in enumerate(names)})
    assert [type(change.format) for change in found.changes] == [TensorTrain] + [Tucker] * (len(names) - 1)
    assert max(change.error for change in found.changes) < 1e-5
    assert str(found).count("tucker") == len(names) - 1


# -------------------------------------------------------------------------------------------------------------- round


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
    _, adapter, _ = stack(kind(3))
    expected, numbers = deltas(adapter), adapter.num_parameters
    adapter.round(rank=rank)
    assert adapter.num_parameters <= numbers
    assert (distance(adapter, expected) < 1e-9) == (rank not in (1, 2))


@pytest.mark.parametrize("kind", FORMATS)
@given(budget=st.integers(20, 400))
@settings(max_examples=10)
def test_a_budget_is_used_as_far_as_it_goes(kind: Any, budget: int) -> None:
    _, adapter, _ = stack(kind(3))
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
    model, adapter, _ = stack()
    with untouched(model), pytest.raises(RankError):
        adapter.round(**arguments)


@pytest.mark.parametrize("state", ["merged", "disabled", "removed"])
def test_only_an_adapter_at_work_is_changed(state: str) -> None:
    _, adapter, _ = stack()
    if state == "merged":
        adapter.merge()
    if state == "removed":
        adapter.remove()
    changes: tuple[Callable[[], object], ...] = (
        lambda: adapter.round(rank=1),
        lambda: adapter.convert(CP(2)),
    )
    for change in changes:
        if state == "disabled":
            with adapter.disabled(), refused(AdaptError, "disabled"):
                change()
        else:
            with refused(AdaptError):
                change()


@pytest.mark.parametrize("rank", ["full", 0.5, 1.0, (8, 9), (2, 9)])
def test_no_way_to_say_a_rank_raises_it(rank: Any) -> None:
    _, adapter, _ = stack(TensorTrain(3))
    found = round_ranks(adapter, rank=rank)
    assert found.parameters <= adapter.num_parameters
    assert found.changes[0].format == TensorTrain((2, 3) if rank == (2, 9) else found.changes[0].format.rank)  # type: ignore[attr-defined]
    with pytest.raises(RankError):
        round_ranks(adapter, rank=(1, 1, 1))


def test_a_budget_reaches_ranks_above_every_mode() -> None:
    _, adapter, _ = stack(CP(20))
    numbers = adapter.num_parameters
    assert round_ranks(adapter, budget=numbers - 1).changes[0].format == CP(19)
    assert round_ranks(adapter, budget=numbers).changes[0].format == CP(20)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_error_is_that_of_the_numbers_that_are_stored(dtype: torch.dtype) -> None:
    _, adapter, _ = stack()
    adapter.to(dtype)
    expected = {name: delta.double() for name, delta in deltas(adapter).items()}
    found = convert(adapter, Tucker("full"))
    model = randomise(layers(4, 8)).double()
    true = distance(load_adapter(model, found.state, check=False), expected)
    assert found.changes[0].error == pytest.approx(true, rel=0.1, abs=3e-8)
    assert true < 1e-6
    with refused(RankError, "below what the dtype can show"):
        convert(adapter, Tucker("full"), tolerance=1e-10)


def test_routes_stay_and_a_file_gives_the_same_bits(tmp_path: Path) -> None:
    model = nano()
    adapter = adapt(model, plan_for(model), TensorTrain(8), seed=0)
    draw(adapter)
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for rank in (4, 3, 2):
        adapter.round(rank=rank)
        assert {choice.route for choice in adapter.explain().choices} == {"activation"}
        adapter.save(tmp_path / "a.safetensors")
        again = nano()
        load_adapter(again, tmp_path / "a.safetensors")
        assert torch.equal(infer(again, x), infer(model, x))


def test_a_state_is_a_snapshot() -> None:
    model = nano()
    adapter = adapt(model, plan_for(model), TensorTrain(2), seed=0)
    found, state = round_ranks(adapter, rank=1), adapter.state
    before = model.get_parameter("head.weight").detach().clone()
    with torch.no_grad():
        model.get_parameter("head.weight").zero_()
    for each in (found.state, state):
        assert torch.equal(each.head["head.weight"], before)


def test_frozen_factors_stay_frozen() -> None:
    _, adapter, _ = stack()
    adapter.factors.requires_grad_(False)
    adapter.round(rank=1)
    assert not any(p.requires_grad for p in adapter.parameters())


# ------------------------------------------------------------------------------------------------------------ combine


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
    (_, one, _), (_, two, _) = stack(KhatriRao(), seed=1), stack(KhatriRao(), seed=2)
    with refused(FormatError, "KhatriRao", "pass the sum's format"):
        combine({one: 1.0, two: 1.0})
    assert combine({one: 1.0, two: 1.0}, format=MatrixBatch("full")).changes[0].error < 1e-6


def test_a_sum_that_no_rank_holds_is_refused() -> None:
    (_, one, _), (_, two, _) = (stack(Each(Nested(MatrixBatch(2), {"A": TensorTrain(1)})), seed=s) for s in (1, 2))
    with refused(FormatError, "holds no exact sum", "MatrixBatch"):
        combine({one: 1.0, two: 1.0})


def test_a_multiple_needs_no_rank() -> None:
    _, one, _ = stack(KhatriRao(), seed=1)
    twice = combine({one: 2.0})
    assert twice.changes[0].error == 0
    assert difference(terms_of(twice.state, "stack")[0].dense(), 2 * terms_of(one.state, "stack")[0].dense()) < 1e-6


def test_a_frozen_core_stays_frozen() -> None:
    _, adapter, _ = stack(TensorTrain(2), seed=1)
    adapter.named_cores()["stack.U"].requires_grad_(False)
    adapter.convert(TensorTrain(1))
    assert {name: core.requires_grad for name, core in adapter.named_cores().items()} == {
        "stack.U": False, "stack.S1": True, "stack.V": True,
    }  # fmt: skip


def test_hosvd_leaves_cores_that_a_format_gives() -> None:
    model = nano()
    plan = plan_for(model, "attention").only(role="o")
    cores = adapt(model, plan, KhatriRao(), init="hosvd").named_cores()
    assert all(bool(((cores[f"encoder.{n}"] == 0) | (cores[f"encoder.{n}"] == 1)).all()) for n in "JI")


def test_ranks_add_and_scales_are_kept() -> None:
    (_, one, _), (_, two, _) = stack(seed=1, scale=2.0), stack(TensorTrain(2), seed=2, scale=0.5)
    found = combine({one: 0.5, two: -1.0})
    assert found.changes[0].format == TensorTrain(5)
    assert found.state.description.scales == {"stack": 2.0}
    rounded = combine({one: 0.5, two: -1.0}, tolerance=0.3)
    assert rounded.parameters < found.parameters
    assert rounded.changes[0].error <= 0.3
    assert combine({one: 0.5, two: -1.0}, rank=2).changes[0].format == TensorTrain(2)


def test_ranks_add_no_further_than_the_modes_allow() -> None:
    adapters = [stack(MatrixBatch(5), seed=seed)[1] for seed in range(3)]
    expected = {name: sum(deltas(each)[name] for each in adapters) for name in deltas(adapters[0])}
    found = combine(dict.fromkeys(adapters, 1.0))
    assert found.changes[0].format == MatrixBatch(8)
    model, adapter, _ = stack()
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
    _, one, _ = stack()
    for options in ({}, {"tolerance": 0.1}, {"format": Tucker(2)}):
        found = combine({one: 1.0, one.state: -1.0}, **options)
        assert found.changes[0].error < 1e-6
        assert all(float(core.abs().max()) < 10 for core in found.state.cores("stack").values())
    assert combine({one: 1.0, one.state: -1.0}, tolerance=0.1).changes[0].format == TensorTrain((1, 1))


def test_numbers_that_are_none_are_not_added() -> None:
    (_, one, _), (_, bad, _) = stack(), stack()
    next(bad.parameters()).data.fill_(math.nan)
    with refused(DataError, "holds NaN"):
        combine({one: 1.0, bad: 1.0})
    with refused(DataError, "holds NaN"):
        convert(bad, CP(2))


def test_what_cannot_be_added_is_refused() -> None:
    (_, one, _), (_, other, _) = stack(), stack(count=3)
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
        combine({one: 1.0, stack(CP(2))[1]: 1.0})
    with refused(AdaptError, "scale of 'stack' is 0"):
        model = layers(4, 8).double()
        combine({adapt(model, layers_plan(), CP(1), scale=0.0, check=False): 1.0})
    model = randomise(layers(4, 8), seed=7).double()
    foreign = adapt(model, layers_plan(), TensorTrain(3), check=False)
    with refused(FingerprintError, "base fingerprint"):
        combine({one: 1.0, foreign: 1.0})
    assert combine({one: 1.0, foreign: 1.0}, check_base=False).changes[0].format == TensorTrain(6)


def test_a_file_whose_cores_are_not_its_format_s_is_refused(tmp_path: Path) -> None:
    state = stack()[1].state
    other = dataclasses.replace(state.description, formats={"stack": TensorTrain(2)})
    AdapterState(other, state.tensors).save(tmp_path / "a.safetensors")
    with refused(CheckpointError, "cores of its formats", "'factors.stack."):
        AdapterState.load(tmp_path / "a.safetensors")


# --------------------------------------------------------------------------------------------------------------- init


def test_the_base_s_directions_start_at_zero_and_are_used() -> None:
    model = nano()
    expected = infer(model, torch.ones(1, 1, 28, 28))
    fresh = adapt(model, plan_for(model), TensorTrain(4), seed=0)
    sizes = {name: float(core.detach().norm()) for name, core in fresh.named_cores().items()}
    fresh.remove()
    adapter = adapt(model, plan_for(model), TensorTrain(4), init="hosvd")
    assert torch.equal(infer(model, torch.ones(1, 1, 28, 28)), expected)
    cores = adapter.named_cores()
    assert {name: float(core.detach().norm()) for name, core in cores.items()} == pytest.approx(sizes, rel=0.15)
    tensor = adapter.resolved.tensors[0]
    unfolded = tensor.gather(nano().state_dict()).movedim(1, 0)
    leading = torch.linalg.svd(unfolded.reshape(96, -1), full_matrices=False)[0][:, :4]
    basis = torch.linalg.qr(cores["encoder.U"].detach())[0]
    assert difference(basis @ basis.t(), leading @ leading.t()) < 1e-3


@pytest.mark.parametrize("kind", EXACT)
def test_an_adapter_or_an_increment_is_a_start(kind: Any) -> None:
    _, source, _ = stack(scale=2.0)
    expected = deltas(source)
    for init in (source, source.state, expected):
        model = randomise(layers(4, 8)).double()
        adapter = adapt(model, layers_plan(), kind("full"), scale=-0.5, init=init, check=False)
        assert distance(adapter, expected) < 1e-6


def test_a_start_of_what_stays_frozen_is_refused() -> None:
    model = randomise(layers(2, 6))
    rule = Rule("{layer}.weight", "(part out) in", part=["a", None, "b"])
    plan = TensorizationPlan((Group("g", "(layer part) in out", (rule,)),))
    increments = {name: torch.ones(6, 6) for name in ("0.weight", "1.weight")}
    with untouched(model), refused(DataError, "leaves frozen"):
        adapt(model, plan, TensorTrain(1), init=increments, check=False)
    for increment in increments.values():
        increment[2:4] = 0
    adapter = adapt(model, plan, TensorTrain(1), init=increments, check=False)
    assert difference(adapter.delta("0.weight"), increments["0.weight"]) < 1e-5


def test_what_is_no_start_is_refused() -> None:
    model, good = randomise(layers(4, 8)), deltas(stack()[1])
    cases: list[tuple[Any, type[Exception]]] = [
        ("svd", AdaptError),
        (3, AdaptError),
        ({}, DataError),
        ({**good, "0.weight": torch.ones(3)}, DataError),
        ({**good, "0.weight": torch.full((8, 8), math.nan)}, DataError),
        (stack(count=3)[1], PlanError),
        (Path("none.safetensors"), CheckpointError),
    ]
    for init, kind in cases:
        with untouched(model), pytest.raises(kind):
            adapt(model, layers_plan(), TensorTrain(2), init=init, check=False)
    with untouched(model), refused(AdaptError, "scale 0"):
        adapt(model, layers_plan(), TensorTrain(2), init=good, scale=0.0, check=False)

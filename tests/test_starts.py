"""What cores start from, which are trained, a start that is subtracted, and what of it a file holds."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tensorfact import (
    Adapter,
    AdapterState,
    Alpha,
    Format,
    Group,
    MatrixBatch,
    Rule,
    TensorizationPlan,
    TensorTrain,
    Tucker,
    adapt,
    fit,
    lab,
    load_adapter,
    plan_for,
    recipes,
)
from tensorfact.adapters.factors import Factors
from tensorfact.algebra.term import terms_of
from tensorfact.errors import AdaptError, CheckpointError, FormatError, NetworkError
from tensorfact.formats import Diagonals, Each, KhatriRao, Nested, Started
from tensorfact.network import Mode
from tensorfact.network.starts import check_start, drawn
from tensorfact.storage.description import AdapterDescription
from tensorfact.storage.files import read_header, read_tensors, write_tensors

from .helpers import TOLERANCE, bits, difference, draw, ids, infer, randomise, refused, state_bits, untouched
from .strategies import Adaptation, adaptations

MODES = (Mode("layer", 3, "stack"), Mode("in", 32, "in"), Mode("out", 24, "out"))
X = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
VERA = Diagonals(TensorTrain(16))


def nano(dtype: torch.dtype = torch.float32) -> nn.Module:
    return lab.nano().to(dtype)


def plan() -> TensorizationPlan:
    return plan_for(lab.nano(), "attention")


# --------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("start", "deviation"),
    [
        ("normal", 0.3), ("normal:2", 2.0), ("uniform", 0.3), ("uniform:2", 2 / math.sqrt(3)),
        ("xavier", math.sqrt(2 / 500)), ("xavier:3", 3 * math.sqrt(2 / 500)), ("constant:0.5", 0.0), ("zero", 0.0),
    ],
)  # fmt: skip
def test_a_word_is_a_distribution(start: str, deviation: float) -> None:
    value = drawn(start, (10, 40, 100), 0.3, torch.Generator().manual_seed(0))
    assert value.dtype == torch.float32
    assert float(value.std()) == pytest.approx(deviation, rel=0.05)
    assert float(value.mean()) == pytest.approx(0.5 if start.startswith("constant") else 0, abs=0.05)


def test_an_orthogonal_core_is_orthogonal_as_a_matrix() -> None:
    value = drawn("orthogonal", (4, 5, 6), 1.0, None).reshape(20, 6)
    assert torch.allclose(value.T @ value, torch.eye(6), atol=1e-5)


@pytest.mark.parametrize("start", ["", "norm", "normal:", "normal:x", "normal:nan", "zero:1", "given:1", None, 3])
def test_what_is_no_start_is_refused(start: Any) -> None:
    with refused(NetworkError, repr(start), fix=False):
        check_start(start, "U")


def test_one_core_starts_at_zero_and_another_may() -> None:
    factors = Factors(Started(TensorTrain(4), {"S1": "zero", "U": "normal:1"}).network(MODES), MODES)
    cores = factors.named_cores()
    assert not cores["S1"].any()
    assert cores["V"].any()
    assert float(cores["U"].detach().std()) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("name", ["U", "S1", "V"])
def test_the_scale_law_holds_whichever_core_is_zero(name: str) -> None:
    """What the zero core is applied to has variance 1: here, the other cores' product with an input, bond by bond."""
    network = Started(TensorTrain(8), {name: "zero"}).network(MODES)
    deviations = Factors(network, MODES, {"layer": 1, "in": 32, "out": 24}).deviations
    assert deviations["U"] == (1 / math.sqrt(32) if name != "U" else deviations["U"])
    assert deviations["V"] == 1 if name == "S1" else True


@pytest.mark.parametrize(
    ("starts", "frozen", "word"),
    [
        ({"W": "zero"}, (), "'W'"), ({}, ("W",), "'W'"), ({"U": "one"}, (), "one"), ({"U": "given"}, (), "given"),
        ({}, "U", "U"), ({}, ("V",), "none would learn"),
        ({}, ("U", "S1", "V"), "none would learn"), ({"U": "zero", "V": "zero"}, (), "more than one"),
    ],
)  # fmt: skip
def test_starts_that_cannot_be_are_refused(starts: Any, frozen: Any, word: str) -> None:
    with refused(FormatError, word, fix=False):
        Started(TensorTrain(4), starts, frozen).network(MODES)


# -------------------------------------------------------------------------------------------------------------- frozen

FROZEN: dict[str, Format] = {
    "frozen": Started(TensorTrain(8), frozen=["U"]),
    "vera": VERA,
    "given": KhatriRao(),
    "frozen orthogonal": Started(Tucker(4), {"U1": "orthogonal", "C": "xavier"}, frozen=["C", "U1"]),
}


@pytest.mark.parametrize("kind", FROZEN)
def test_a_frozen_core_is_neither_trained_nor_counted(kind: str) -> None:
    model = nano()
    adapter = adapt(model, plan(), FROZEN[kind], seed=0)
    network = FROZEN[kind].network(adapter.resolved.tensors[0].modes)
    trained = {f"factors.encoder.cores.{core.name}" for core in network.cores if core.trained}
    assert {n for n, p in adapter.named_parameters() if p.requires_grad} == trained
    assert adapter.num_parameters == sum(p.numel() for p in adapter.parameters() if p.requires_grad)
    assert adapter.num_parameters == adapter.state.num_parameters == network.num_parameters
    before = state_bits(adapter)
    fit(model, _samples(), _samples(), epochs=2, lr=1e-2)
    assert {name for name, value in state_bits(adapter).items() if value != before[name]} == trained


def _samples() -> torch.utils.data.TensorDataset:
    return torch.utils.data.TensorDataset(X.repeat(4, 1, 1, 1), torch.arange(8) % 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", FROZEN)
def test_a_file_leaves_out_what_can_be_drawn_again(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = nano(dtype)
    adapter = adapt(model, plan(), FROZEN[kind], train_head=False)  # no seed: it is drawn, and stored
    draw(adapter)
    adapter.save(tmp_path / "a.safetensors")
    stored = read_tensors(tmp_path / "a.safetensors")
    assert sum(t.numel() for t in stored.values()) == adapter.num_parameters
    size = 8 if dtype == torch.float64 else 4
    assert (tmp_path / "a.safetensors").stat().st_size <= adapter.num_parameters * size + 4096
    loaded = nano(dtype)
    again = load_adapter(loaded, tmp_path / "a.safetensors")
    assert state_bits(again) == state_bits(adapter)
    assert bits(infer(loaded, X.to(dtype))) == bits(infer(model, X.to(dtype)))
    assert {n: p.requires_grad for n, p in again.named_parameters()} == {
        n: p.requires_grad for n, p in adapter.named_parameters()
    }


def test_a_frozen_core_that_was_changed_is_stored(tmp_path: Path) -> None:
    adapter = adapt(nano(), plan(), FROZEN["frozen"], seed=0)
    with torch.no_grad():
        adapter.named_cores()["encoder.U"].mul_(2)
    adapter.save(tmp_path / "a.safetensors")
    assert "factors.encoder.U" in read_tensors(tmp_path / "a.safetensors")
    assert state_bits(load_adapter(nano(), tmp_path / "a.safetensors")) == state_bits(adapter)


def test_several_tensors_are_drawn_in_their_order(tmp_path: Path) -> None:
    whole = plan_for(lab.nano(), mlp="whole")
    adapter = adapt(nano(), whole, {"encoder_mlp": VERA, "encoder": TensorTrain(3)}, seed=7)
    adapter.save(tmp_path / "a.safetensors")
    assert state_bits(load_adapter(nano(), tmp_path / "a.safetensors")) == state_bits(adapter)


def _edited(path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    metadata = dict(read_header(path).metadata)
    metadata = json.loads(json.dumps(metadata))
    edit(metadata)
    write_tensors(path, read_tensors(path), metadata)
    return path


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.update(seed=1),
        lambda m: m["drawn"].update(digest="0" * 16),
        lambda m: m["drawn"].update(names=[]),
        lambda m: m["drawn"].update(names=["factors.encoder.D1"]),
        lambda m: m["drawn"].update(names=["nothing"]),
        lambda m: m.pop("drawn"),
        lambda m: m["drawn"].pop("digest"),
        lambda m: m.update(seed=None),
        lambda m: m.update(seed="x"),
        lambda m: m.update(seed=-(1 << 80)),
        lambda m: m.update(extents={"all": {"in": 0}}),
        lambda m: m.update(subtracts_start=True),
    ],
)
def test_a_file_that_says_otherwise_is_refused(edit: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    adapt(nano(), plan(), VERA, seed=0).save(tmp_path / "a.safetensors")
    path, model = _edited(tmp_path / "a.safetensors", edit), nano()
    with untouched(model), refused(CheckpointError, fix=False):
        load_adapter(model, path)


def test_a_file_cannot_ask_for_more_than_it_may(tmp_path: Path) -> None:
    adapt(nano(), plan(), VERA, seed=0).save(tmp_path / "a.safetensors")
    huge = [["(layer role)", 24, "stack"], ["in", 1 << 40, "in"], ["out", 96, "out"]]
    path = _edited(tmp_path / "a.safetensors", lambda m: m.update(modes={"all": huge}))
    with refused(CheckpointError, "damaged", fix=False):
        AdapterDescription.read(path)


# --------------------------------------------------------------------------------------------------------- subtraction


@settings(max_examples=15)
@given(adaptations(), st.sampled_from(["auto", "weight"]), st.integers(0, 3))
def test_any_start_subtracted_leaves_the_output(adaptation: Adaptation, route: str, seed: int) -> None:
    base = infer(adaptation.case.build(), ids())
    model, adapter = adaptation.fresh(seed=seed, route=route)
    adapter.remove()
    starts = {name: _all_normal(format, adapter.resolved[name].modes) for name, format in adapter.formats.items()}
    adapter = adapt(model, adaptation.case.plan, starts, seed=seed, subtract_start=True, train_head=False)
    assert any(core.any() for core in adapter.named_cores().values())
    assert bits(infer(model, ids())) == bits(base)
    draw(adapter, seed)
    moved = infer(model, ids())
    assert not any(p.requires_grad for p in adapter.starts.parameters())
    adapter.merge()
    assert difference(infer(model, ids()), moved) < TOLERANCE[torch.float32]
    adapter.unmerge()
    assert bits(infer(model, ids())) == bits(moved)
    assert bits(infer(copy.deepcopy(model), ids())) == bits(moved)


def _all_normal(format: Format, modes: Any) -> Format:
    zero = [core.name for core in format.network(modes).cores if core.start == "zero"]
    return Started(format, dict.fromkeys(zero, "normal"))


def _gates(model: nn.Module, **options: Any) -> Adapter:
    return recipes.quanta(model).adapt(model, **options)


def test_what_is_subtracted_is_drawn_again(tmp_path: Path) -> None:
    model = randomise(nano(), 1)
    adapter = _gates(model, train_head=False)
    draw(adapter)
    adapter.save(tmp_path / "a.safetensors")
    assert sum(t.numel() for t in read_tensors(tmp_path / "a.safetensors").values()) == adapter.num_parameters
    loaded = randomise(nano(), 1)
    again = load_adapter(loaded, tmp_path / "a.safetensors")
    assert state_bits(again) == state_bits(adapter)
    assert bits(infer(loaded, X)) == bits(infer(model, X))
    _, start = terms_of(AdapterState.load(tmp_path / "a.safetensors"), "encoder")
    assert torch.equal(-start.dense(), cast("Factors", adapter.starts["encoder"]).dense())


def test_a_start_from_weights_is_stored(tmp_path: Path) -> None:
    model = nano()
    tuned = {name: p + 0.01 * torch.randn_like(p) for name, p in model.named_parameters()}
    increments = {name: tuned[name] - p for name, p in model.named_parameters()}
    base = infer(model, X)
    adapter = adapt(model, plan(), TensorTrain(4), init=increments, subtract_start=True, train_head=False)
    assert bits(infer(model, X)) == bits(base)
    adapter.save(tmp_path / "a.safetensors")
    assert sum(t.numel() for t in read_tensors(tmp_path / "a.safetensors").values()) == 2 * adapter.num_parameters
    assert state_bits(load_adapter(nano(), tmp_path / "a.safetensors")) == state_bits(adapter)


def test_a_difference_is_converted_as_one() -> None:
    model = nano()
    adapter = _gates(model)
    draw(adapter, size=0.1)
    before = {name: adapter.delta(name) for name in adapter.resolved.parameters}
    moved = infer(model, X)
    found = adapter.convert(MatrixBatch("full"), tolerance=1e-5)
    assert found.changes[0].error < 1e-5
    assert not adapter.starts
    assert all(difference(adapter.delta(name), value) < 1e-4 for name, value in before.items())
    assert difference(infer(model, X), moved) < 1e-3


def test_a_difference_is_no_lora(tmp_path: Path) -> None:
    adapter = _gates(nano())
    with refused(AdaptError, "convert"):
        adapter.to_lora(tmp_path / "lora")


@pytest.mark.parametrize("route", ["auto", "weight"])
def test_both_products_take_the_order_that_was_asked_for(route: Any) -> None:
    model = nano()
    base = infer(model, X)
    adapter = _gates(model, optimize="greedy", route=route)
    assert bits(infer(model, X)) == bits(base)
    slot = adapter._slots["blocks.0.attn.qkv.weight"].increment
    assert slot.kind.optimize == slot.start.kind.optimize == "greedy"  # type: ignore[attr-defined]


def test_gradients_reach_the_factors_and_not_the_start() -> None:
    model = nano()
    adapter = _gates(model)
    model(X).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in adapter.factors.parameters())
    assert all(p.grad is None for p in adapter.starts.parameters())


# ------------------------------------------------------------------------------------------------------------- dropout


def _mean(model: nn.Module, count: int, x: Tensor) -> Tensor:
    with torch.no_grad():
        return sum((model(x) for _ in range(count)), torch.zeros(())) / count


@pytest.mark.parametrize("kind", ["rank", "increment", "factors"])
@pytest.mark.parametrize("route", ["activation", "weight"])
@pytest.mark.parametrize("subtract", [False, True])
def test_dropout_acts_in_training_alone_and_on_average_not_at_all(kind: str, route: Any, subtract: bool) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 6)), torch.randn(4, 6)
    group = Group("g", "n in out", (Rule("{n}.weight", "out in"),))
    adapter = adapt(
        model,
        TensorizationPlan((group,)),
        TensorTrain(2),
        dropout={kind: 0.5},
        route=route,
        subtract_start=subtract,
    )
    draw(adapter)
    model.eval()
    with torch.no_grad():
        kept = model(x)
        assert torch.equal(model(x), kept)
        base = kept - x @ adapter.delta("0.weight").T
        model.train()
        assert not torch.equal(model(x), kept)
    means = _mean(model, 800, x)
    assert difference(means - base, kept - base) < 0.3


def test_dropout_of_all_entries_but_few_leaves_the_base() -> None:
    model, x = nn.Sequential(nn.Linear(6, 6)), torch.randn(4, 6)
    group = Group("g", "n in out", (Rule("{n}.weight", "out in"),))
    base = model(x)
    adapter = adapt(model, TensorizationPlan((group,)), TensorTrain(2), dropout={"increment": 1 - 1e-9})
    draw(adapter)
    model.train()
    assert torch.allclose(model(x), base, atol=1e-6)


def test_dropout_is_stored_as_it_was_given(tmp_path: Path) -> None:
    for dropout in (0.1, {"increment": 0.2, "factors": 0.1}):
        adapter = adapt(nano(), plan(), TensorTrain(4), dropout=dropout)
        adapter.save(tmp_path / "a.safetensors")
        assert load_adapter(nano(), tmp_path / "a.safetensors").dropout == dropout


@pytest.mark.parametrize("dropout", [1.0, -0.1, "x", None, {"ranks": 0.1}, {"rank": 1}, {"rank": True}, math.nan])
def test_a_dropout_that_is_none_is_refused(dropout: Any) -> None:
    model = nano()
    with untouched(model), refused(AdaptError, "dropout", fix=False):
        adapt(model, plan(), TensorTrain(4), dropout=dropout)


@pytest.mark.parametrize("kind", ["rank", "increment", "factors"])
@pytest.mark.parametrize("route", ["auto", "weight"])
def test_dropout_of_a_difference_drops_nothing_of_the_base(kind: str, route: Any) -> None:
    model = nano()
    base = model.train()(X)
    recipes.quanta(model).adapt(model, seed=0, dropout={kind: 0.5}, route=route, train_head=False)
    assert torch.equal(model.train()(X), base)


def test_rank_components_are_dropped_where_they_are() -> None:
    """VeRA's zero core has no bond: components of the diagonal between its matrices are dropped, not the whole."""
    model = nano()
    adapter = recipes.vera(model, rank=16).adapt(model, seed=0, dropout=0.5)
    draw(adapter)
    increment = adapter._slots["blocks.0.attn.qkv.weight"].increment
    model.train()
    with torch.no_grad():
        sizes = {round(float(increment.dense(drop=True).norm() / increment.dense().norm()), 4) for _ in range(20)}
    assert len(sizes) > 15
    with refused(AdaptError, "dropout", "factors"):
        recipes.lokr(lab.nano(), rank=None).adapt(lab.nano(), dropout=0.5)


# --------------------------------------------------------------------------------------------------- scale, groups


@pytest.mark.parametrize(
    ("format", "scale", "found"),
    [
        (TensorTrain(4), Alpha(8), 2.0), (TensorTrain(4), Alpha(8, root=True), 4.0),
        (Tucker((4, 4, 4)), Alpha(8), 2.0), (Started(Each(TensorTrain(4))), Alpha(2), 0.5),
        (KhatriRao(), Alpha(8), 1.0), (TensorTrain(4), 3, 3.0),
    ],
)  # fmt: skip
def test_a_scale_may_depend_on_the_rank(format: Format, scale: Any, found: float) -> None:
    assert adapt(nano(), plan(), format, scale=scale).scales == {"encoder": found}


@pytest.mark.parametrize("scale", [Alpha(math.nan), Alpha("x"), "x", None, math.inf, {"encoder": "x"}])  # type: ignore[arg-type]
def test_a_scale_that_is_none_is_refused(scale: Any) -> None:
    model = nano()
    with untouched(model), refused(AdaptError, "scale"):
        adapt(model, plan(), TensorTrain(4), scale=scale)


@pytest.mark.parametrize(
    "format",
    [
        Diagonals(TensorTrain(0.05)), Started(MatrixBatch(0.05), frozen=["A"]),
        Each(TensorTrain(0.05)),
        Nested(MatrixBatch(0.05), {"A": TensorTrain(1)}), Started(Diagonals(TensorTrain("full"))),
    ],
    ids=str,
)  # fmt: skip
def test_a_rank_that_is_spelled_out_is_the_one_that_is_built(format: Format) -> None:
    model = nano()
    adapter = adapt(model, plan_for(model).only(role=["q", "v"]), format, scale=Alpha(16), seed=0)
    (tensor,) = adapter.resolved.tensors
    explicit = format.explicit(tensor.modes)
    assert explicit.network(tensor.modes) == format.network(tensor.modes)
    assert adapter.scales == {"encoder": 16 / explicit.spelled_rank}  # type: ignore[operator]
    count = adapter.num_parameters
    adapter.round(rank=1000)
    assert adapter.num_parameters == count


def test_several_ranks_have_no_alpha() -> None:
    with refused(AdaptError, "(4, 8)"):
        adapt(nano(), plan(), TensorTrain((4, 8)), scale=Alpha(8))


def test_factors_have_learning_rates_of_their_own() -> None:
    model = nano()
    adapter = adapt(model, plan(), MatrixBatch(4), seed=0)
    cores = adapter.named_cores()
    groups = adapter.parameter_groups(1e-3, {"B": 16, "head": 0.5})
    assert [group["lr"] for group in groups] == [0.5e-3, 1e-3, 16e-3]
    assert groups[2]["params"][0] is cores["encoder.B"]
    assert sum(len(group["params"]) for group in groups) == 4
    assert len(adapter.parameter_groups(1e-3)) == 1
    assert adapter.parameter_groups(1.0, {"B": 2, "encoder.B": 3})[-1]["lr"] == 3.0
    for name, factor in (("b", 2), ("B", 0), ("B", math.nan), ("B", "x")):
        with refused(AdaptError, name, fix=False):
            adapter.parameter_groups(1e-3, {name: factor})  # type: ignore[dict-item]


def test_fit_takes_learning_rates_and_resumes_under_the_same(tmp_path: Path) -> None:
    def run(epochs: int, checkpoint: Path | None, factors: dict[str, float] | None) -> dict[str, bytes]:
        model = nano()
        adapter = adapt(model, plan(), MatrixBatch(4), seed=0)
        fit(model, _samples(), _samples(), epochs=epochs, warmup_epochs=0, checkpoint=checkpoint, lr_factors=factors)
        return state_bits(adapter)

    plain, faster = run(2, None, None), run(2, None, {"B": 16.0})
    assert plain != faster
    assert run(2, None, {"B": 1.0}) == plain
    assert run(2, tmp_path / "c.safetensors", {"B": 16.0}) == faster
    assert run(2, tmp_path / "c.safetensors", {"B": 16.0}) == faster

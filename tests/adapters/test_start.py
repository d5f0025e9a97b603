"""The `init` argument of `adapt`: HOSVD of the base weights, another adapter, increments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from tensorfact import (
    Format,
    Group,
    MatrixBatch,
    Rule,
    TensorizationPlan,
    TensorTrain,
    Tucker,
    adapt,
    load_adapter,
    plan_for,
)
from tensorfact.adapters.options import AdaptOptions
from tensorfact.errors import AdaptError, CheckpointError, DataError, PlanError
from tensorfact.formats import Diagonals, Each, KhatriRao, Nested, PartialTucker, Started
from tensorfact.lab import nano
from tensorfact.storage.files import read_tensors
from tests.helpers import (
    TT,
    deltas,
    difference,
    distance,
    infer,
    layers,
    layers_plan,
    randomise,
    refused,
    stacked,
    state_bits,
    untouched,
)
from tests.strategies import EXACT


def test_hosvd_leaves_cores_that_a_format_gives() -> None:
    cores = adapt(layers(), layers_plan(), KhatriRao(), init="hosvd", check=False).named_cores()
    assert all(bool(((cores[f"stack.{n}"] == 0) | (cores[f"stack.{n}"] == 1)).all()) for n in "JI")


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


LORA_XS = Started(Each(PartialTucker(8)), {"C": "zero"}, frozen=["U1", "U2"])


def projector(core: Tensor) -> Tensor:
    """Return the projector on the span of the columns of a core (..., rows, columns)."""
    basis = torch.linalg.qr(core.detach())[0]
    found: Tensor = basis @ basis.mT
    return found


def test_the_frozen_bases_of_lora_xs_are_the_singular_vectors_of_each_weight() -> None:
    model, x = nano(), torch.ones(1, 1, 28, 28)
    expected = infer(model, x)
    adapter = adapt(model, plan_for(model, "attention"), LORA_XS, init="hosvd", seed=0)
    assert torch.equal(infer(model, x), expected)
    assert adapter.num_parameters == 24 * 8 * 8
    cores = adapter.named_cores()
    assert [name for name, core in cores.items() if core.requires_grad] == ["encoder.C"]
    u, _, vh = torch.linalg.svd(adapter.resolved.tensors[0].gather(nano().state_dict()))
    assert difference(projector(cores["encoder.U1"]), projector(u[..., :8])) < 1e-3
    assert difference(projector(cores["encoder.U2"]), projector(vh[:, :8].mT)) < 1e-3


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "format",
    [
        LORA_XS,
        Started(TensorTrain(4), {"S1": "zero"}, frozen=["U", "V"]),
        Started(MatrixBatch(4), frozen=["A"]),
        Started(Tucker(4), frozen=["U1", "C"]),
        Diagonals(TensorTrain(4)),
        Nested(Started(MatrixBatch(4), frozen=["A"]), {"A": TensorTrain(2)}),
    ],
    ids=str,
)
def test_frozen_directions_are_those_of_any_seed_and_stay_in_the_file(format: Format, tmp_path: Path) -> None:
    model, path = nano(), tmp_path / "a.safetensors"
    plan = plan_for(model, "attention").only(role="o")
    adapter = adapt(model, plan, format, init="hosvd", seed=0)
    frozen = [name for name, core in adapter.named_cores().items() if not core.requires_grad]
    adapter.save(path)
    assert {f"factors.{name}" for name in frozen} <= read_tensors(path).keys()
    assert state_bits(load_adapter(nano(), path)) == state_bits(adapter)
    other = nano()
    again = adapt(other, plan, format, init="hosvd", seed=1).named_cores()
    assert all(torch.equal(again[name], adapter.named_cores()[name]) for name in frozen)


@pytest.mark.parametrize(
    ("format", "zero", "words"),
    [
        (Started(Each(PartialTucker(2)), {"C": "zero"}, frozen=["U1", "U2"]), [1], "index 1 of 'layer'"),
        (Started(MatrixBatch(2), frozen=["A"]), [0], "index 0 of 'layer'"),
        (Started(TensorTrain(2), frozen=["U"]), [0, 1], "zeros everywhere"),
        (Started(Tucker((1, 4, 2)), frozen=["U1"]), [], "index 2 of '_in'"),
    ],
)
def test_frozen_cores_without_a_direction_are_refused(format: Format, zero: list[int], words: str) -> None:
    model = randomise(layers(2, 6))
    with torch.no_grad():
        for at in zero:
            cast("nn.Linear", model[at]).weight.zero_()
    with untouched(model), refused(AdaptError, "init='hosvd'", "frozen core", words):
        adapt(model, layers_plan(), format, init="hosvd", check=False)


@pytest.mark.parametrize("format", [MatrixBatch(2), TensorTrain(2), Tucker(2)], ids=str)
def test_trained_cores_need_no_direction(format: Format) -> None:
    model = randomise(layers(2, 6))
    with torch.no_grad():
        cast("nn.Linear", model[1]).weight.zero_()
    adapter = adapt(model, layers_plan(), format, init="hosvd", check=False)
    assert all(torch.isfinite(core).all() for core in adapter.named_cores().values())
    assert not any(adapter.delta(f"{layer}.weight").any() for layer in range(2))


@pytest.mark.parametrize("kind", EXACT)
def test_an_adapter_or_an_increment_is_a_start(kind: Any) -> None:
    _, source, _ = stacked(scale=2.0)
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
    model, good = randomise(layers(4, 8)), deltas(stacked()[1])
    cases: list[tuple[Any, type[Exception]]] = [
        ("svd", AdaptError),
        (3, AdaptError),
        ({}, DataError),
        ({**good, "0.weight": torch.ones(3)}, DataError),
        ({**good, "0.weight": torch.full((8, 8), math.nan)}, DataError),
        (stacked(count=3)[1], PlanError),
        (Path("none.safetensors"), CheckpointError),
    ]
    for init, kind in cases:
        with untouched(model), pytest.raises(kind):
            adapt(model, layers_plan(), TensorTrain(2), init=init, check=False)
    with untouched(model), refused(AdaptError, "a scale other than 0"):
        adapt(model, layers_plan(), TensorTrain(2), init=good, scale=0.0, check=False)


def test_the_path_of_a_file_is_a_start_as_a_str_too(tmp_path: Path) -> None:
    model, trained, _ = stacked()
    path = tmp_path / "start.safetensors"
    trained.save(path)
    expected = deltas(trained)
    trained.remove()
    for given in (path, str(path)):
        adapter = adapt(model, layers_plan(), TensorTrain("full"), init=given, check=False)
        assert all(difference(found, expected[name]) < 1e-5 for name, found in deltas(adapter).items())
        adapter.remove()


@pytest.mark.parametrize("wrong", ["", b"x", Path("/"), Path("."), "tests.", 5, "adapter", [1]])
def test_what_init_takes_is_said(wrong: Any) -> None:
    model = layers()
    with untouched(model), refused(AdaptError, "adapt: init", "'hosvd'", "the path of an adapter file"):
        adapt(model, layers_plan(), TT, init=wrong, train_head=False)


def test_a_message_names_the_function_that_was_called() -> None:
    for function in ("adapt", "load_adapter"):
        for option in ({"route": "x"}, {"optimize": 5}, {"check": "no"}, {"recompute": 1}, {"seed": "x"}):
            with refused(AdaptError, f"{function}: {next(iter(option))}"):
                AdaptOptions(function=function, **option)

"""The `init` argument of `adapt`: HOSVD of the base weights, another adapter, increments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tensorfact import Group, Rule, TensorizationPlan, TensorTrain, adapt, plan_for
from tensorfact.adapters.options import AdaptOptions
from tensorfact.errors import AdaptError, CheckpointError, DataError, PlanError
from tensorfact.formats import KhatriRao
from tensorfact.lab import nano
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
    untouched,
)
from tests.strategies import EXACT


def test_hosvd_leaves_cores_that_a_format_gives() -> None:
    model = nano()
    plan = plan_for(model, "attention").only(role="o")
    cores = adapt(model, plan, KhatriRao(), init="hosvd").named_cores()
    assert all(bool(((cores[f"encoder.{n}"] == 0) | (cores[f"encoder.{n}"] == 1)).all()) for n in "JI")


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

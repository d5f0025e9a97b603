"""Dropout: what it drops, that it is inactive outside training, and invalid probabilities."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from tensorfact import (
    CP,
    Group,
    MatrixBatch,
    Rule,
    TensorizationPlan,
    TensorTrain,
    Tucker,
    adapt,
    lab,
    load_adapter,
    recipes,
)
from tensorfact.adapters.factors import Factors
from tensorfact.errors import AdaptError
from tensorfact.network import Core, Network
from tensorfact.network.dropout import Dropout
from tests.bundled import X, nano, plan
from tests.helpers import difference, draw, layers, layers_plan, refused, untouched
from tests.layouts import applied


@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
@pytest.mark.parametrize("kind", [TensorTrain, Tucker, CP, MatrixBatch])
def test_dropout_drops_whole_rank_components_and_keeps_the_mean(kind: Any, route: Any) -> None:
    torch.manual_seed(0)
    model = layers(depth=2, width=6)
    adapter = adapt(model, layers_plan(), kind(2), dropout=0.25, route=route, seed=0, scale=1.0)
    factors = cast("Factors", adapter.factors["stack"])
    zero = factors.network.cores[-1].name
    with torch.no_grad():
        factors.named_cores()[zero].normal_()
    increment = adapter._slots["0.weight"].increment
    x = torch.eye(6)
    model.train()
    with torch.no_grad():
        apply = (
            (lambda x: applied(increment, x)) if route == "activation" else lambda x: x @ increment.dense(drop=True).T
        )
        calls = torch.stack([apply(x) for _ in range(400)])
        whole = x @ increment.dense().T
    # Two components, each dropped or scaled by 1 / 0.75: four different results, of which one is zero.
    assert len({tuple((10 * y).round().flatten().tolist()) for y in calls}) == 4
    assert (calls.abs().amax((1, 2)) < 1e-6).any()
    assert difference(calls.mean(0), whole) < 0.15


@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
def test_dropout_rests_in_evaluation_merging_and_delta(route: Any) -> None:
    model = layers()
    adapter = adapt(model, layers_plan(), TensorTrain(2), dropout=0.9, route=route, seed=0, scale=1.0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.fill_(1.0)
    x = torch.ones(2, 6)
    model.eval()
    assert torch.equal(model(x), model(x))
    model.train()
    assert torch.equal(adapter.delta("0.weight"), torch.full((6, 6), 4.0))
    base = dict(model.named_parameters())["0.weight"].detach().clone()
    adapter.merge()
    assert difference(dict(model.named_parameters())["0.weight"], base + 4) < 1e-6


def _mean(model: nn.Module, count: int, x: Tensor) -> Tensor:
    with torch.no_grad():
        return sum((model(x) for _ in range(count)), torch.zeros(())) / count


@pytest.mark.parametrize("kind", ["rank", "increment", "factors"])
@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
@pytest.mark.parametrize("subtract", [False, True])
def test_dropout_acts_in_training_alone_and_on_average_not_at_all(kind: str, route: Any, subtract: bool) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 6)), torch.randn(4, 6)
    group = Group("g", "n in out", (Rule("{n}.weight", "out in"),))
    adapter = adapt(
        model,
        TensorizationPlan((group,)),
        TensorTrain(2),
        scale=1.0,
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


@pytest.mark.parametrize(
    ("dropout", "masked"),
    [
        (Dropout(), []),
        (Dropout(increment=0.5), []),
        (Dropout(factors=0.5), ["A", "B"]),
        (Dropout(rank=0.5), ["B"]),
        (Dropout(rank=0.5, factors=0.5), ["A", "B"]),
    ],
)
def test_only_cores_with_dropout_have_a_mask(dropout: Dropout, masked: list[str]) -> None:
    cores = (Core("A", ("in", "_r")), Core("M", ("_r", "_s"), trained=False), Core("B", ("_s", "out"), "zero"))
    network = Network(cores, ("in", "out"), {"in": 6, "_r": 2, "_s": 3, "out": 4})
    masks = dropout.masks(network, [torch.ones(shape) for shape in network.shapes().values()])
    assert [core.name for core, mask in zip(cores, masks, strict=True) if mask is not None] == masked

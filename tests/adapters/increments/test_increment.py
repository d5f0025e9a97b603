"""Increments: applying one equals multiplying by it, for any names of axes."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given

from tensorfact import CP, MatrixBatch, TensorTrain, Tucker, adapt
from tensorfact.adapters.factors import Factors
from tensorfact.errors import AdaptError
from tests.helpers import difference, draw, layers, layers_plan, randomise, refused
from tests.layouts import applied
from tests.strategies import Adaptation, adaptations


@given(adaptations(called=True))
def test_applying_an_increment_is_multiplying_by_it(adaptation: Adaptation) -> None:
    _, adapter = adaptation.drawn(torch.float64)
    for name, slot in adapter._slots.items():
        outputs, inputs = slot.increment.view.shape
        for shape in ((), (0,), (1,), (5, 3)):
            x = torch.randn(*shape, inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
            y = applied(slot.increment, x)
            assert y.shape == (*shape, outputs)
            assert not y.numel() or difference(slot.scale * y, x @ adapter.delta(name).T) < 1e-10


@pytest.mark.parametrize("axis", ["tokens", "r", "x", "in", "samples", "U", "cores"])
@pytest.mark.parametrize("kind", [TensorTrain, Tucker, CP, MatrixBatch])
def test_an_axis_may_have_any_name(kind: Any, axis: str) -> None:
    """Names of axes do not collide with the internal names of networks and inputs."""
    plan = layers_plan(f"layer {axis} out", f"out {axis}")
    model = layers(2, 6).double()
    adapter = adapt(model, plan, kind(2), route="activation", seed=0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.randn(5, 6, dtype=torch.float64)
    adapted = model(x)
    adapter.merge()
    assert difference(adapted, model(x)) < 1e-10


def test_the_increment_of_a_transposed_convolution_is_only_formed() -> None:
    with refused(AdaptError, "'0.weight'", "ConvTranspose2d", "route='auto'"):
        adapt(
            torch.nn.Sequential(torch.nn.ConvTranspose2d(2, 2, 1)),
            layers_plan("layer in out", "in out 1 1"),
            TensorTrain(1),
            route="activation",
        )


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
def test_dropout_of_entries_drops_or_scales_each_entry_of_the_increment_in_training_alone(
    route: Any, subtract: bool
) -> None:
    torch.manual_seed(0)
    model = randomise(layers(1)).double()
    options: Any = {"route": route, "scale": -0.5, "seed": 0, "subtract_start": subtract}
    adapter = adapt(model, layers_plan(), TensorTrain(2), dropout={"increment": 0.75}, **options)
    draw(adapter)
    layer, eye = cast("torch.nn.Linear", model[0]), torch.eye(6, dtype=torch.float64)
    base = dict(model.named_parameters())["0.weight"].detach().clone()
    whole = cast("Factors", adapter.factors["stack"]).dense()[0].t()
    if subtract:
        whole = whole - cast("Factors", adapter.starts["stack"]).dense()[0].t()
    assert difference(adapter.delta("0.weight"), -0.5 * whole) < 1e-12
    for weight in ((layer(eye) - layer.bias).t(), layer.weight):
        share = ((weight - base) / (-0.5 * whole)).detach()
        assert share.round(decimals=6).unique().tolist() == [0, 4]
    model.eval()
    for weight in ((layer(eye) - layer.bias).t(), layer.weight):
        assert difference(weight, base - 0.5 * whole) < 1e-12


@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_merging_writes_what_reading_gives_rounded_once(dtype: torch.dtype, route: Any) -> None:
    model = randomise(layers(1)).to(dtype)
    adapter = adapt(model, layers_plan(), TensorTrain(2), scale=0.37, route=route, seed=0)
    draw(adapter)
    read = cast("torch.Tensor", model[0].weight).detach().clone()
    adapter.merge()
    assert torch.equal(model.get_parameter("0.weight"), read)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_offloaded_parameter_is_not_merged_into(dtype: torch.dtype) -> None:
    adapter = adapt(layers(1), layers_plan(), TensorTrain(2), check=False)
    with refused(AdaptError, "'0.weight'", "offloaded", "adapter.merge()"):
        adapter._slots["0.weight"].increment.add_into(torch.empty(6, 6, dtype=dtype, device="meta"), 1.0)

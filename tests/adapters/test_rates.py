"""The derived scale: what the first step changes, and that learning rates, sizes of cores and scales are one thing."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from torch import nn

from tensorfact import CP, Adapter, Format, MatrixBatch, TensorTrain, Tucker, adapt, plan_for
from tensorfact.adapters.factors import Factors
from tensorfact.adapters.rates import CHANGE, ENTRIES, rounded, weights_rms
from tensorfact.formats import BlockTerm, Diagonals, KhatriRao, Started, TensorRing
from tensorfact.formats.common import zero_core
from tests.bundled import nano, plan
from tests.helpers import draw, layers, layers_plan, randomise
from tests.strategies import Adaptation, adaptations

FORMATS = [TensorTrain(4), Tucker((4, 8, 8)), CP(8), MatrixBatch(2), TensorRing(3), BlockTerm(3, 2), KhatriRao()]


def entries(factors: Factors) -> dict[str, float]:
    """Return the root mean square of each trained core that does not start at zero."""
    zero = zero_core(factors.network).name
    cores = {core.name: core for core in factors.network.cores if core.trained and core.name != zero}
    return {name: float(factors.named_cores()[name].detach().square().mean().sqrt()) for name in cores}


def change(adapter: Adapter, lr: float = 1e-3) -> float:
    """Return the change of the weights, relative to their size, by a step of random signs on the zero core."""
    (tensor,), found = adapter.resolved.tensors, []
    factors = cast("Factors", adapter.factors[tensor.name])
    core = factors.named_cores()[zero_core(factors.network).name]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(20):
            core.copy_((torch.rand(core.shape, generator=generator) < 0.5) * 2.0 - 1.0).mul_(lr)
            found.append(factors.dense().square().mean())
        core.zero_()
    return float(torch.stack(found).mean().sqrt()) * adapter.scales[tensor.name] / weights_rms(adapter.model, tensor)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_the_first_step_changes_the_weights_by_the_stated_fraction(format: Format) -> None:
    adapter = adapt(nano(), plan(), format, seed=0)
    (tensor,) = adapter.resolved.tensors
    core = zero_core(tensor.network(format))
    sizes = tensor.network(format).sizes
    share = math.prod(mode.size for mode in tensor.modes) / math.prod(sizes[leg] for leg in core.legs) / sizes["in"]
    assert change(adapter) == pytest.approx(1e-3 * CHANGE * share**0.25, rel=0.05)


def test_the_fraction_lies_between_those_of_lora_and_rank_stabilised_lora() -> None:
    """LoRA divides by the rank, which gives the power 1/2, and rsLoRA by its root, which gives 0."""
    one, sixteen = (adapt(nano(), plan(), MatrixBatch(rank), seed=0) for rank in (1, 16))
    assert change(one) / change(sixteen) == pytest.approx(16**0.25, rel=0.05)
    assert one.scales["encoder"] / sixteen.scales["encoder"] == pytest.approx(16**0.75, rel=0.1)


@pytest.mark.parametrize("width", [8, 32, 128])
def test_the_fraction_does_not_depend_on_the_width(width: int) -> None:
    """As muP asks of LoRA: B of size 1, A of size 1 / sqrt(width)."""
    adapter = adapt(randomise(layers(4, width)), layers_plan(), MatrixBatch(2), seed=0, check=False, train_head=False)
    assert change(adapter) == pytest.approx(1e-3 * CHANGE / 2**0.25, rel=0.15)


@given(adaptation=adaptations())
def test_all_cores_have_one_size_and_one_rate(adaptation: Adaptation) -> None:
    _, adapter = adaptation.fresh(scale="auto", check=False)
    for name, factors in adapter.factors.items():
        for core, size in entries(cast("Factors", factors)).items():
            assert size == pytest.approx(ENTRIES, rel=1e-3) or not size, (name, core)
    assert [group["lr"] for group in adapter.parameter_groups(0.25)] == [0.25]


@given(adaptation=adaptations())
def test_balancing_changes_no_increment(adaptation: Adaptation) -> None:
    _, adapter = adaptation.drawn(scale=3.0, check=False)
    before = {name: adapter.delta(name).detach() for name in adapter.resolved.parameters}
    adapter.balance()
    for name, increment in before.items():
        assert torch.allclose(adapter.delta(name), increment, rtol=1e-4, atol=1e-5 * float(increment.abs().max()))


@pytest.mark.parametrize(
    "format",
    [
        TensorTrain(3),
        Tucker(3),
        CP(4),
        MatrixBatch(2),
        TensorRing(2),
        Diagonals(TensorTrain(2)),
        Started(CP(2), frozen=["U1"]),
    ],
    ids=str,
)
def test_rates_at_any_scale_are_what_the_derived_scale_is_at_one_rate(format: Format) -> None:
    """For Adam the size of a core, its learning rate and the scale are exchangeable: one trajectory."""
    increments = []
    for scale in (0.5, "auto"):
        model = cast("nn.Module", randomise(layers(3, 6)).double())
        adapter = adapt(model, layers_plan(), format, scale=cast("Any", scale), seed=0, check=False, train_head=False)
        optimizer = torch.optim.AdamW(adapter.parameter_groups(1e-2), eps=1e-14, weight_decay=0.0)
        for step in range(10):
            x = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        increments.append(adapter.delta("1.weight").detach())
    assert float(increments[1].abs().max()) > 0
    assert torch.dist(increments[0], increments[1]) < 2e-2 * increments[1].norm()


def test_a_derived_scale_is_the_same_with_any_seed_and_start_up_to_the_drawn_cores() -> None:
    scales = [adapt(nano(), plan(), TensorTrain(8), seed=seed).scales["encoder"] for seed in range(3)]
    assert max(scales) < 1.1 * min(scales)
    assert all(scale == rounded(scale) for scale in scales)
    assert adapt(nano(), plan(), TensorTrain(8), seed=0, init="hosvd").scales["encoder"] > 0


def test_an_increment_to_start_from_stays_with_the_derived_scale() -> None:
    model = nano()
    given = adapt(model, plan(), TensorTrain(4), seed=0)
    draw(given)
    name = "blocks.0.attn.qkv.weight"
    found = adapt(nano(), plan(), TensorTrain(4), init=given)
    assert torch.allclose(found.delta(name), given.delta(name), atol=1e-6)
    assert entries(cast("Factors", found.factors["encoder"]))["U"] == pytest.approx(ENTRIES, rel=1e-3)


def test_lora_plus_comes_out_as_the_ratio_of_rates() -> None:
    """B trains faster than A, whose entries are small, by the root of the width: LoRA+ finds 16 in practice."""
    adapter = adapt(nano(), plan(), MatrixBatch(8), scale=1.0, seed=0)
    rates = {group["lr"]: [p.shape for p in group["params"]] for group in adapter.parameter_groups(1.0)}
    a, b = (next(lr for lr, shapes in rates.items() if core.shape in shapes) for core in adapter.factors.parameters())
    assert a == pytest.approx(1 / math.sqrt(96) / ENTRIES, rel=0.02)
    assert b > 0


def test_weights_of_zero_and_a_model_without_values_have_a_scale() -> None:
    model = layers(2, 16)
    nn.init.zeros_(cast("nn.Parameter", model[0].weight))
    nn.init.zeros_(cast("nn.Parameter", model[1].weight))
    adapter = adapt(model, layers_plan(), TensorTrain(2), seed=0, check=False, train_head=False)
    assert weights_rms(model, adapter.resolved.tensors[0]) == 1 / math.sqrt(16)
    assert math.isfinite(adapter.scales["stack"])
    empty = nano().to("meta")
    assert adapt(empty, plan_for(empty), TensorTrain(2), check=False).scales == {"encoder": 1.0}


def test_the_first_steps_train_every_core() -> None:
    model = nano()
    adapter = adapt(model, plan(), TensorTrain(4), seed=0)
    before = {name: core.detach().clone() for name, core in adapter.named_cores().items()}
    optimizer = torch.optim.AdamW(adapter.parameter_groups(1e-3))
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 1, 28, 28)).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(core, before[name]) for name, core in adapter.named_cores().items())


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_the_size_of_weights_whose_squares_leave_fp32_is_found(size: float) -> None:
    model = nano()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(size)
    adapter = adapt(model, plan(), MatrixBatch(4), scale=1.0, seed=0)
    tensor = adapter.resolved.tensors[0]
    assert weights_rms(model, tensor) == pytest.approx(size * weights_rms(nano(), tensor), rel=1e-4)

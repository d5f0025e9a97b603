"""Factors: the scale of their start, the two ways to use an increment, and dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tensorfact import CP, Group, MatrixBatch, Rule, TensorizationPlan, TensorTrain, Tucker, adapt
from tensorfact.adapters.factors import Factors
from tensorfact.adapters.increments import Increment, token_class
from tensorfact.errors import AdaptError
from tensorfact.network import Mode, Network, Side

from .helpers import difference, layers, layers_plan, refused
from .strategies import Adaptation, adaptations, formats, modes

STACKED = (("layer", 3, "stack"), ("role", 2, "stack"), ("in", 12, "in"), ("out", 10, "out"))


def as_modes(*rows: tuple[str, int, Side]) -> tuple[Mode, ...]:
    return tuple(Mode(*row) for row in rows)


# ------------------------------------------------------------------------------------------------------------- numbers


@given(data=st.data())
def test_the_zero_core_is_zero_and_no_other_is(data: st.DataObject) -> None:
    drawn = data.draw(modes())
    network = data.draw(formats(drawn)).network(drawn)
    factors = Factors(network, drawn, generator=torch.Generator().manual_seed(0))
    for core in network.cores:
        tensor = factors.named_cores()[core.name]
        assert (tensor == 0).all() if core.start == "zero" else (tensor != 0).all()
    assert factors.num_parameters == network.num_parameters == sum(p.numel() for p in factors.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_cores_have_the_dtype_asked_for_and_the_same_numbers_in_each(dtype: torch.dtype) -> None:
    drawn = as_modes(("layer", 3, "stack"), ("in", 4, "in"), ("out", 5, "out"))
    network = TensorTrain(2).network(drawn)
    wide, cast_ = (
        Factors(network, drawn, dtype=d, generator=torch.Generator().manual_seed(1)) for d in (torch.float32, dtype)
    )
    for name, core in cast_.named_cores().items():
        assert core.dtype == dtype
        assert torch.equal(core, wide.named_cores()[name].to(dtype))


def test_assigned_cores_are_copied() -> None:
    drawn = as_modes(("in", 4, "in"), ("out", 5, "out"))
    factors = Factors(TensorTrain(2).network(drawn), drawn)
    cores = {name: torch.randn(core.shape) for name, core in factors.named_cores().items()}
    parameters = list(factors.parameters())
    factors.assign(cores)
    assert difference(factors.dense(), cores["U"] @ cores["V"]) < 1e-6
    assert [id(p) for p in factors.parameters()] == [id(p) for p in parameters]


# ----------------------------------------------------------------------------------------------------------- scale law


def met_by_the_zero_core(network: Network, factors: Factors, inputs: Sequence[str], x: Tensor) -> Tensor:
    """Contract an input (samples, *inputs) with every core but the last, which starts at zero."""
    letters = dict(zip(["samples", *network.sizes], "abcdefghijklmnopqrstuvwxyz", strict=False))
    random, zero = network.cores[:-1], network.cores[-1]
    held = {leg for core in random for leg in core.legs}
    left = [leg for leg in held if leg in zero.legs or (leg in network.output and leg not in inputs)]
    terms = [["samples", *inputs], *(core.legs for core in random)]
    equation = ",".join("".join(letters[leg] for leg in term) for term in terms)
    result = "".join(letters[leg] for leg in ["samples", *left])
    return torch.einsum(f"{equation}->{result}", x, *[factors.named_cores()[core.name] for core in random])


@pytest.mark.parametrize(
    "rows",
    [
        (("layer", 6, "stack"), ("in", 8, "in"), ("out", 8, "out")),
        (("(layer role)", 24, "stack"), ("in", 32, "in"), ("out", 16, "out")),
        (("in", 16, "in"), ("layer", 3, "stack"), ("role", 4, "stack"), ("out", 8, "out")),
        (("layer", 4, "stack"), ("head", 4, "in"), ("dim", 6, "in"), ("out", 12, "out")),
        (("out", 9, "out"), ("dim", 3, "out"), ("in", 12, "in")),
    ],
    ids=lambda rows: " ".join(row[0] for row in rows),
)
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("kind", [TensorTrain, Tucker, CP, MatrixBatch])
def test_what_meets_the_zero_core_has_variance_one(kind: Any, rank: int, rows: Any) -> None:
    """The mean square over many seeds; at rank 1 a product of normals has heavy tails, hence the number of seeds."""
    drawn = as_modes(*rows)
    network = kind(rank).network(drawn)
    inputs = [mode.name for mode in drawn if mode.side == "in"]
    generator = torch.Generator().manual_seed(0)
    squares = []
    for _ in range(500):
        factors = Factors(network, drawn, generator=generator)
        x = torch.randn([4, *network.shape(inputs)], generator=generator)
        squares.append(met_by_the_zero_core(network, factors, inputs, x).detach().square().mean())
    assert float(torch.stack(squares).mean()) == pytest.approx(1, rel=0.25)


@pytest.mark.parametrize("order", [("in", "out", "layer"), ("layer", "in", "out"), ("out", "in", "layer")])
def test_the_scale_holds_along_any_chain(order: tuple[str, ...]) -> None:
    drawn = as_modes(("layer", 6, "stack"), ("in", 8, "in"), ("out", 8, "out"))
    network = TensorTrain((3, 4), order).network(drawn)
    generator = torch.Generator().manual_seed(0)
    squares = []
    for _ in range(500):
        factors = Factors(network, drawn, generator=generator)
        x = torch.randn(4, 8, generator=generator)
        squares.append(met_by_the_zero_core(network, factors, ["in"], x).detach().square().mean())
    assert float(torch.stack(squares).mean()) == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("kind", [TensorTrain, Tucker, CP, MatrixBatch])
@pytest.mark.parametrize("modes", ["layer in out", "in layer out", "layer (block offset) out", "(layer in) out"])
def test_the_scale_holds_in_an_adapted_layer_however_its_axes_are_arranged(kind: Any, modes: str) -> None:
    """Seen from outside: with a zero core of variance 1 instead, an output sums its bond's terms of variance 1 each."""
    pattern = "out (block offset)" if "block" in modes else "out in"
    plan = TensorizationPlan(
        (Group("g", modes, (Rule("{layer}.weight", pattern),), axis_sizes={"block": 4} if "block" in modes else None),)
    )
    squares = []
    generator = torch.Generator().manual_seed(-1)
    for seed in range(300):
        model = layers(depth=4, width=8)
        adapter = adapt(model, plan, kind(2), seed=seed)
        factors = cast("Factors", adapter.factors["g"])
        zero = factors.network.cores[-1]
        with torch.no_grad():
            core = factors.named_cores()[zero.name]
            core.copy_(torch.randn(core.shape, generator=generator))
        terms = math.prod(factors.network.sizes[leg] for leg in zero.legs if leg not in factors.network.output)
        y = torch.randn(4, 8, generator=generator) @ adapter.delta("1.weight").detach().T
        squares.append(y.square().mean() / terms)
    assert float(torch.stack(squares).mean()) == pytest.approx(1, rel=0.3)


# ---------------------------------------------------------------------------------------------------------- increments


def applied(increment: Increment, x: Tensor) -> Tensor:
    """Apply an increment, as a layer of zeros without a bias does."""
    view = increment.view
    zero = torch.zeros(view.shape, dtype=x.dtype)
    return increment.linear(lambda x, w, b: F.linear(x, w.t() if view.transposed else w), x, zero, None, 1.0)


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


@pytest.mark.parametrize(("tokens", "rounded"), [(0, 1), (1, 1), (2, 2), (3, 4), (197, 256), (256, 256), (257, 512)])
def test_orders_are_planned_once_a_power_of_two(tokens: int, rounded: int) -> None:
    assert token_class(tokens) == rounded
    adapter = adapt(layers(), layers_plan(), TensorTrain(2))
    increment = adapter._slots["0.weight"].increment
    assert increment.kind.applying(tokens) is increment.kind.applying(rounded)


@pytest.mark.parametrize("axis", ["tokens", "r", "x", "in", "samples", "U", "cores"])
@pytest.mark.parametrize("kind", [TensorTrain, Tucker, CP, MatrixBatch])
def test_an_axis_may_have_any_name(kind: Any, axis: str) -> None:
    """Names of axes never meet the names that networks and inputs use inside."""
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


# ------------------------------------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("route", ["activation", "weight"])
@pytest.mark.parametrize("kind", [TensorTrain, Tucker, CP, MatrixBatch])
def test_dropout_drops_whole_rank_components_and_keeps_the_mean(kind: Any, route: Any) -> None:
    torch.manual_seed(0)
    model = layers(depth=2, width=6)
    adapter = adapt(model, layers_plan(), kind(2), dropout=0.25, route=route, seed=0)
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


@pytest.mark.parametrize("route", ["activation", "weight"])
def test_dropout_rests_in_evaluation_merging_and_delta(route: Any) -> None:
    model = layers()
    adapter = adapt(model, layers_plan(), TensorTrain(2), dropout=0.9, route=route, seed=0)
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


def test_the_increment_of_a_convolution_is_only_formed() -> None:
    with refused(AdaptError, "'0.weight'", "Conv2d", "route='auto'"):
        adapt(
            torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1)),
            layers_plan("layer in out", "out in 1 1"),
            TensorTrain(1),
            route="activation",
        )

"""Initial values of cores: the input of the zero core has variance one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tensorfact import CP, Group, MatrixBatch, Rule, TensorizationPlan, TensorTrain, Tucker, adapt
from tensorfact.adapters.factors import Factors
from tensorfact.network import Network
from tests.helpers import as_modes, layers


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


@pytest.mark.sampled(5)
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


@pytest.mark.sampled(5)
@pytest.mark.parametrize("kind", [TensorTrain, Tucker, CP, MatrixBatch])
@pytest.mark.parametrize("modes", ["layer in out", "in layer out", "layer (block offset) out", "(layer in) out"])
def test_the_scale_holds_in_an_adapted_layer_however_its_axes_are_arranged(kind: Any, modes: str) -> None:
    """With a zero core of variance 1 instead of zero, an output sums one term of variance 1 per bond component."""
    pattern = "out (block offset)" if "block" in modes else "out in"
    plan = TensorizationPlan(
        (Group("g", modes, (Rule("{layer}.weight", pattern),), axis_sizes={"block": 4} if "block" in modes else None),)
    )
    squares = []
    generator = torch.Generator().manual_seed(-1)
    for seed in range(100):
        model = layers(depth=4, width=8)
        adapter = adapt(model, plan, kind(2), seed=seed, scale=1.0, check=False)
        factors = cast("Factors", adapter.factors["g"])
        zero = factors.network.cores[-1]
        with torch.no_grad():
            core = factors.named_cores()[zero.name]
            core.copy_(torch.randn(core.shape, generator=generator))
        terms = math.prod(factors.network.sizes[leg] for leg in zero.legs if leg not in factors.network.output)
        y = torch.randn(4, 8, generator=generator) @ adapter.delta("1.weight").detach().T
        squares.append(y.square().mean() / terms)
    assert float(torch.stack(squares).mean()) == pytest.approx(1, rel=0.3)

"""The environment of a core against the Jacobian of the dense tensor, for any format."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tensorfact import CP, Format, MatrixBatch, TensorTrain, Tucker
from tensorfact.formats import TensorRing
from tensorfact.network import Core, Network, plan_contraction
from tensorfact.network.environment import Environment
from tensorfact.testing import formats, modes, plain_kinds
from tests.formats.tensors import THREE, random_cores


def jacobian(network: Network, cores: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return the Jacobian (tensor, core) of the dense tensor with respect to one core."""
    contract = plan_contraction(network)

    def dense(core: torch.Tensor) -> torch.Tensor:
        return contract([core if each.name == name else cores[each.name] for each in network.cores])

    found: torch.Tensor = torch.autograd.functional.jacobian(dense, cores[name])  # type: ignore[no-untyped-call]
    return found.reshape(-1, cores[name].numel())


@given(data=st.data())
def test_gram_matrices_and_norm_are_those_of_the_jacobian(data: st.DataObject) -> None:
    drawn = data.draw(modes())
    network = data.draw(formats(drawn, plain_kinds())).network(drawn)
    core = data.draw(st.sampled_from(network.cores))
    cores = random_cores(network)
    exact, environment = jacobian(network, cores, core.name), Environment.of(network, core.name)
    values = torch.randn(network.shape(core.legs), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = environment.multiply([branch.matrix(cores) for branch in environment.branches], values)
    expected = (exact.T @ exact @ values.reshape(-1)).reshape(values.shape)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert environment.rms(cores) == pytest.approx(float(exact.square().sum() / len(exact)) ** 0.5, rel=1e-9)


@pytest.mark.parametrize(
    ("format", "core", "bonds"),
    [
        (TensorTrain(2), "S1", [("_1",), ("_2",)]),
        (TensorTrain(2), "V", [("_2",)]),
        (Tucker(2), "C", [("_in",), ("_layer",), ("_out",)]),
        (CP(2), "U1", [("_r",)]),
        (MatrixBatch(2), "A", [("_r",)]),
        (TensorRing(2), "R2", [("_1", "_2")]),
    ],
)
def test_a_network_falls_apart_into_one_branch_for_each_side_of_a_core(
    format: Format, core: str, bonds: list[tuple[str, ...]]
) -> None:
    environment = Environment.of(format.network(THREE), core)
    assert [branch.bonds for branch in environment.branches] == bonds


def test_a_single_core_has_no_environment() -> None:
    environment = Environment.of(Network((Core("W", ("i", "o")),), ("i", "o"), {"i": 3, "o": 4}), "W")
    values = torch.ones(3, 4)
    assert environment.branches == ()
    assert environment.rms({"W": values}) == 1.0
    assert torch.equal(environment.multiply([], values), values)
    wide = Environment.of(Network((Core("W", ("i", "o", "_r")),), ("i", "o"), {"i": 3, "o": 4, "_r": 9}), "W")
    assert wide.rms({}) == math.sqrt(9)

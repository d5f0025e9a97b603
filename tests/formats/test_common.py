"""Helpers of formats: zero cores, surplus ranks, and tensorly's backend left as it was."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import tensorly
import torch

from tensorfact import Format, TensorTrain, Tucker
from tensorfact.network import Mode
from tests.formats.tensors import THREE, dense
from tests.helpers import difference
from tests.strategies import EXACT, FORMATS, full_rank


@pytest.mark.parametrize(
    ("format", "sizes"),
    [
        (TensorTrain((1, 4)), (2, 2, 4)),
        (TensorTrain((2, 1, 2, 4)), (2, 2, 2, 2, 4)),
        (Tucker((4, 1, 1)), (4, 4, 4)),
        (Tucker((1, 2, 3)), (3, 3, 3)),
    ],
    ids=str,
)
def test_ranks_wider_than_their_neighbours_need_decompose_all_the_same(format: Format, sizes: list[int]) -> None:
    """Ranks that can be trained can also be decomposed at; surplus columns may hold anything."""
    drawn = tuple(Mode(f"m{k}", size, "stack") for k, size in enumerate(sizes))
    tensor = torch.randn(*sizes, generator=torch.Generator().manual_seed(0))
    cores = format.decompose(tensor, drawn).cores
    assert {name: tuple(core.shape) for name, core in cores.items()} == format.network(drawn).shapes()
    assert float((dense(format.network(drawn), cores) - tensor).norm()) < float(tensor.norm())


@pytest.mark.parametrize("kind", FORMATS)
def test_decomposing_leaves_tensorly_and_torch_as_they_were(kind: type[Format]) -> None:
    state, backend = torch.get_rng_state(), tensorly.get_backend()
    full_rank(kind, THREE).decompose(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)), THREE)
    assert torch.equal(torch.get_rng_state(), state)
    assert tensorly.get_backend() == backend


@pytest.mark.parametrize("kind", FORMATS)
def test_zero_gives_cores_that_can_learn(kind: Any) -> None:
    found = kind(2).decompose(torch.zeros(3, 4, 5), THREE)
    assert not found.dense().any()
    assert found.error == 0
    cores = {name: core.clone().requires_grad_() for name, core in found.cores.items()}
    dataclasses.replace(found, cores=cores).dense().sum().backward()
    assert any(core.grad is not None and core.grad.any() for core in cores.values())


@pytest.mark.parametrize("kind", EXACT)
def test_fewer_directions_than_the_rank_are_no_trouble(kind: Any) -> None:
    tensor = torch.ones(3, 4, 5)
    found = kind(3).decompose(tensor, THREE)
    assert difference(found.dense(), tensor) < 1e-5

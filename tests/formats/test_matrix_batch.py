"""Matrix batches: the best approximation of every slice, at the lowest common rank."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tensorfact import MatrixBatch
from tests.formats.tensors import dense
from tests.strategies import matrix_limit, modes, tensors


@given(data=st.data())
def test_matrix_batch_is_the_best_of_every_slice(data: st.DataObject) -> None:
    drawn = data.draw(modes())
    tensor = data.draw(tensors(drawn))
    rank = data.draw(st.integers(1, matrix_limit(drawn)))
    found = dense(MatrixBatch(rank).network(drawn), MatrixBatch(rank).decompose(tensor, drawn).cores)
    order = [at for side in ("stack", "in", "out") for at, mode in enumerate(drawn) if mode.side == side]
    stack, rows = (math.prod(m.size for m in drawn if m.side == side) for side in ("stack", "in"))
    singular = torch.linalg.svdvals(tensor.permute(order).reshape(stack, rows, -1))
    best = singular[:, rank:].square().sum().sqrt()
    assert float((found - tensor).norm()) == pytest.approx(
        float(best), rel=1e-6, abs=1e-9 * float(tensor.norm()) + 1e-12
    )


@given(data=st.data(), tolerance=st.floats(0.01, 0.9))
def test_matrix_batch_finds_the_lowest_rank(data: st.DataObject, tolerance: float) -> None:
    drawn = data.draw(modes())
    tensor = data.draw(tensors(drawn))
    found = MatrixBatch("full").decompose(tensor, drawn, tolerance=tolerance)
    rank = found.network.sizes["_r"]
    assert rank == 1 or MatrixBatch(rank - 1).decompose(tensor, drawn).error > tolerance * (1 - 1e-9)

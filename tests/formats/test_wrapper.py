"""Formats that wrap another format share its rank."""

from __future__ import annotations

import pytest

from tensorfact import Alpha, Format, MatrixBatch, TensorTrain, adapt, plan_for
from tensorfact.formats import Diagonals, Each, Nested, Started
from tensorfact.formats.search import spelled_rank
from tests.bundled import nano


@pytest.mark.parametrize(
    "format",
    [
        Diagonals(TensorTrain(0.05)), Started(MatrixBatch(0.05), frozen=["A"]),
        Each(TensorTrain(0.05)),
        Nested(MatrixBatch(0.05), {"A": TensorTrain(1)}), Started(Diagonals(TensorTrain("full"))),
    ],
    ids=str,
)  # fmt: skip
def test_a_rank_that_is_spelled_out_is_the_one_that_is_built(format: Format) -> None:
    model = nano()
    adapter = adapt(model, plan_for(model).only(role=["q", "v"]), format, scale=Alpha(16), seed=0)
    (tensor,) = adapter.resolved.tensors
    explicit = format.explicit(tensor.modes)
    assert explicit.network(tensor.modes) == format.network(tensor.modes)
    assert adapter.scales == {"encoder": 16 / spelled_rank(explicit)}  # type: ignore[operator]
    count = adapter.num_parameters
    adapter.round(rank=1000)
    assert adapter.num_parameters == count

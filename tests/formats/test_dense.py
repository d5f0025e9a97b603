"""Dense tensors to decompose: default modes, and invalid tensors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tensorfact import TensorTrain
from tensorfact.errors import DataError, RankError
from tests.formats.tensors import THREE, random
from tests.helpers import difference, refused


@pytest.mark.parametrize("tolerance", [0, -0.1, 1.0, 2, True, "0.1", math.nan])
def test_a_tolerance_that_is_no_share_is_refused(tolerance: Any) -> None:
    with refused(RankError, repr(tolerance)):
        TensorTrain(2).decompose(random(3, 4, 5), THREE, tolerance=tolerance)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    tensor = random(3, 4, 5)
    tensor[1, 2, 3] = bad
    with refused(DataError, "1 of 60"):
        TensorTrain(2).decompose(tensor, THREE)


def test_tensors_and_modes_of_odd_kinds_are_refused() -> None:
    ones = torch.ones(3, 4, 5)
    for odd in (ones.to_sparse(), ones.to("meta"), ones.to(torch.float8_e4m3fn)):
        with refused(DataError, "dense real tensor", fix=False):
            TensorTrain(2).decompose(odd, THREE)
    for wrong in ((*THREE[:2], THREE[1]), (3, 4, 5)):
        with refused(DataError, "Mode objects", fix=False):
            TensorTrain(2).decompose(torch.ones(3, 4, 4), wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(3, 4), torch.ones(3, 4, 6), torch.ones(3, 4, 5, dtype=torch.complex64), [1.0], None],
    ids=lambda t: str(getattr(t, "shape", t)),
)
def test_what_is_no_such_tensor_is_refused(tensor: Any) -> None:
    with refused(DataError, "(3, 4, 5)", fix=False):
        TensorTrain(2).decompose(tensor, THREE)
    if not isinstance(tensor, torch.Tensor):
        with refused(DataError, fix=False):
            TensorTrain(2).decompose(tensor)


def test_modes_need_not_be_named() -> None:
    tensor = random(2, 3, 4, 5)
    found = TensorTrain("full").decompose(tensor)
    assert [mode.side for mode in found.modes] == ["stack", "stack", "in", "out"]
    assert difference(found.dense(), tensor) < 1e-12
    assert "relative error" in str(found)

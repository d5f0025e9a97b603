"""Diagonals: initial values at which they cannot learn are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tensorfact import TensorTrain
from tensorfact.errors import FormatError
from tensorfact.formats import Diagonals
from tests.helpers import refused


@pytest.mark.parametrize("value", [0.0, math.nan, "abc", (1,), None])
def test_a_diagonal_that_cannot_learn_is_refused(value: Any) -> None:
    with refused(FormatError, "Diagonals"):
        Diagonals(TensorTrain(2), value)

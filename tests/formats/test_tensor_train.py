"""Tensor trains: the paper's chain, and orders of modes."""

from __future__ import annotations

from typing import Any

import pytest

from tensorfact import TensorTrain
from tensorfact.errors import FormatError
from tests.formats.tensors import THREE, VIT
from tests.helpers import refused


def test_the_paper_s_chain() -> None:
    cores = {core.name: core.legs for core in TensorTrain(16).network(VIT).cores}
    assert cores == {"U": ("in", "_1"), "S1": ("_1", "(layer role)", "_2"), "V": ("_2", "out")}


@pytest.mark.parametrize("order", [("in", "out"), ("in", "layer", "layer"), ("in", "layer", "up"), ()])
def test_an_order_names_every_mode_once(order: Any) -> None:
    with refused(FormatError, "order", repr(tuple(order)), fix=False):
        TensorTrain(2, order).network(THREE)


@pytest.mark.parametrize("order", [5, True, (1, "in", "out"), ("in", None, "out")])
def test_an_order_that_is_no_list_of_names_is_refused(order: Any) -> None:
    with refused(FormatError, fix=False):
        TensorTrain(2, order).network(THREE)

"""Formats within formats: which cores can be factored."""

from __future__ import annotations

from tensorfact import MatrixBatch, TensorTrain
from tensorfact.errors import FormatError
from tensorfact.formats import KhatriRao, Nested, Started
from tests.formats.tensors import THREE
from tests.helpers import refused


def test_a_factored_core_stays_frozen_and_a_given_one_is_not_factored() -> None:
    frozen = Nested(Started(MatrixBatch(2), frozen=["A"]), {"A": TensorTrain(1)}).network(THREE)
    assert {core.name: core.trained for core in frozen.cores} == {"A_U": False, "A_S1": False, "A_V": False, "B": True}
    for outer in (Started(MatrixBatch(2), {"A": "normal:5"}), KhatriRao()):
        name = outer.network(THREE).cores[0].name
        with refused(FormatError, f"core {name!r} starts"):
            Nested(outer, {name: TensorTrain(1)}).network(THREE)

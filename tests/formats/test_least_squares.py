"""Least squares: formats without a decomposition of their own, and frozen cores."""

from __future__ import annotations

import dataclasses

import torch

from tensorfact import Format, TensorTrain
from tensorfact.formats import Diagonals, Started
from tests.formats.tensors import THREE


def test_frozen_cores_are_fitted_too() -> None:
    """Frozen cores take part in a decomposition: they then differ from those of the seed."""
    tensor = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    for format in (Diagonals(TensorTrain(3)), Started(TensorTrain(3), frozen=["U"])):
        found = format.decompose(tensor, THREE)
        again = format.decompose(found.dense(), THREE)
        assert again.error < 0.05  # least squares stop at a local minimum


def test_a_format_that_knows_no_decomposition_of_its_own_is_fitted() -> None:
    @dataclasses.dataclass(frozen=True)
    class Plain(TensorTrain):
        factorize = Format.factorize  # type: ignore[assignment]
        within = Format.within

    tensor = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    fitted, exact = Plain(2).decompose(tensor, THREE), TensorTrain(2).decompose(tensor, THREE)
    assert fitted.error <= exact.error + 1e-3
    assert Plain("full").decompose(tensor, THREE, tolerance=1e-4).error <= 1e-4

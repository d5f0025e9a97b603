"""Orthonormal bases of the modes: they hold everything that a factored tensor is made of."""

from __future__ import annotations

import torch

from tensorfact import TensorTrain
from tensorfact.algebra.bases import compress
from tensorfact.network import Mode
from tests.algebra.terms import term
from tests.helpers import difference


def test_bases_are_orthonormal_and_hold_everything() -> None:
    drawn = (Mode("l", 6, "stack"), Mode("in", 20, "in"), Mode("out", 30, "out"))
    only = term(TensorTrain(2), drawn)
    found = compress([only], {"in": 20, "out": 30})
    assert found.core.shape == (6, 2, 2)
    assert found.dropped == 0
    for basis in found.bases.values():
        assert difference(basis.t() @ basis, torch.eye(2).double()) < 1e-12
    whole = torch.einsum("lab,ia,ob->lio", found.core, found.bases["in"], found.bases["out"])
    assert difference(whole, only.dense()) < 1e-12

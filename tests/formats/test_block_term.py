"""Block-term: the conformance kit, its count, and the formula it stands for."""

from __future__ import annotations

import torch

from tensorfact.formats import BlockTerm
from tensorfact.network import Mode
from tensorfact.testing import check_format

MODES = (Mode("layer", 3, "stack"), Mode("in", 4, "in"), Mode("out", 5, "out"))

test_laws = check_format(BlockTerm(rank=2, blocks=2)).as_test()


def test_the_count_is_the_closed_form() -> None:
    assert BlockTerm(rank=(2, 3, 4), blocks=7).num_parameters(MODES) == 7 * (3 * 2 + 4 * 3 + 5 * 4 + 2 * 3 * 4)


def test_it_is_a_sum_of_tucker_terms() -> None:
    found = BlockTerm(rank=2, blocks=2).decompose(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)))
    u1, u2, core, u3 = (found.cores[name] for name in ("U1", "U2", "C", "U3"))
    expected = sum(torch.einsum("ix,ly,oz,yxz->lio", u1[b], u2[b], u3[b], core[b]) for b in range(2))
    torch.testing.assert_close(found.dense(), expected, atol=1e-5, rtol=1e-5)

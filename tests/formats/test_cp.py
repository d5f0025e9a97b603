"""CP: decomposition, also with more terms than needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tensorfact import CP
from tensorfact.errors import FormatError
from tensorfact.formats import Decomposition
from tensorfact.network import Mode
from tests.formats.tensors import dense, random, random_cores
from tests.helpers import difference, refused
from tests.strategies import modes, terms_limit


@given(modes(least=2, most=4), st.integers(0, 99))
def test_cp_recovers_a_tensor_of_rank_one(drawn: tuple[Mode, ...], seed: int) -> None:
    network = CP(1).network(drawn)
    tensor = dense(network, random_cores(network, seed))
    assert difference(dense(network, CP(1).decompose(tensor, drawn).cores), tensor) < 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(data=st.data())
def test_cp_of_more_terms_than_needed_still_fits(dtype: torch.dtype, data: st.DataObject) -> None:
    drawn = data.draw(modes(least=2, most=4))
    network = CP(1).network(drawn)
    tensor = dense(network, random_cores(network, data.draw(st.integers(0, 99)))).to(dtype)
    format = CP(data.draw(st.integers(1, min(4, terms_limit(drawn)))))
    assert difference(dense(format.network(drawn), format.decompose(tensor, drawn).cores), tensor) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cp_of_one_term_too_many_never_ends_in_a_singular_system(dtype: torch.dtype) -> None:
    """Two terms for a tensor of rank one leave alternating least squares undecided; one shape in many seeds."""
    drawn = tuple(Mode(f"m{k}", size, "stack") for k, size in enumerate((4, 2, 2)))
    failed = []
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        a, b, c = (torch.randn(mode.size, generator=generator, dtype=torch.float64) for mode in drawn)
        tensor = torch.einsum("i,j,k->ijk", a, b, c).to(dtype)
        try:
            found = dense(CP(2).network(drawn), CP(2).decompose(tensor, drawn).cores)
        except RuntimeError as error:
            failed.append((seed, str(error)))
        else:
            assert difference(found, tensor) < 1e-3
    assert not failed


def test_a_large_tensor_of_few_terms_is_found_by_cp() -> None:
    """Large tensors are compressed first."""
    drawn = (Mode("layer", 24, "stack"), Mode("in", 220, "in"), Mode("out", 220, "out"))
    format = CP(4)
    cores = {name: random(*shape, dtype=torch.float32) for name, shape in format.network(drawn).shapes().items()}
    tensor = Decomposition(format, drawn, cores, 0.0).dense()
    assert format.decompose(tensor, drawn).error < 1e-3


@pytest.mark.parametrize("weights", [None, "yes", 2, torch.ones(2), [True]])
def test_weights_are_a_bool(weights: Any) -> None:
    with refused(FormatError, "CP: weights"):
        CP(2, weights=weights)

"""Positions along a dimension: slices where possible, and taking as the inverse of placing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.plan.indexing import Index, as_index, mesh, spread, take

positions = st.lists(st.integers(0, 6), min_size=1, max_size=7, unique=True)


@pytest.mark.parametrize(
    ("given_positions", "expected"),
    [
        ([4], slice(4, 5, 1)),
        ([0, 1, 2], slice(0, 3, 1)),
        ([1, 4], slice(1, 5, 3)),
        ([2, 0], (2, 0)),
        ([3, 3], (3, 3)),
        ([0, 1, 3], (0, 1, 3)),
    ],
)
def test_evenly_rising_positions_are_a_slice(given_positions: list[int], expected: Index) -> None:
    assert as_index(given_positions) == expected


@given(positions, st.integers(0, 2))
def test_take_is_what_torch_indexes(at: list[int], dim: int) -> None:
    tensor = torch.arange(7**3).reshape(7, 7, 7)
    assert torch.equal(take(tensor, dim, as_index(at)), tensor.index_select(dim, torch.tensor(at)))


@given(positions, st.integers(0, 1))
def test_spread_places_what_take_finds_and_zeros_elsewhere(at: list[int], dim: int) -> None:
    parts = torch.randn([len(at) if d == dim else 3 for d in range(2)])
    whole = spread(parts, dim, at, 7)
    assert whole.shape[dim] == 7
    assert torch.equal(take(whole, dim, as_index(at)), parts)
    rest = [k for k in range(7) if k not in at]
    assert not rest or not take(whole, dim, as_index(rest)).any()


def test_spread_over_everything_copies_nothing() -> None:
    parts = torch.randn(3, 2)
    assert spread(parts, 0, (0, 1, 2), 3) is parts


@given(st.lists(positions, min_size=1, max_size=3))
def test_a_mesh_indexes_the_block_that_taking_along_every_dimension_gives(at: list[list[int]]) -> None:
    whole = torch.arange(7 ** len(at)).reshape([7] * len(at))
    block = whole
    for dim, each in enumerate(at):
        block = take(block, dim, as_index(each))
    index = mesh(tuple(as_index(each) for each in at))
    assert torch.equal(whole[index], block)
    assert all(isinstance(each, slice) for each in index) == all(isinstance(as_index(each), slice) for each in at)

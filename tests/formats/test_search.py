"""The search for a rank: capped, the smallest that meets a condition, the largest within a budget."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorfact import CP, TensorTrain, Tucker
from tensorfact.errors import RankError
from tensorfact.formats import Gates
from tensorfact.formats.search import capped, highest_rank, largest, smallest, spelled_rank
from tests.formats.tensors import THREE
from tests.helpers import refused
from tests.strategies import FORMATS, modes


@pytest.mark.parametrize("kind", FORMATS)
@given(data=st.data(), share=st.floats(0.01, 1.0))
def test_a_fraction_is_the_most_that_fits(kind: Any, data: st.DataObject, share: float) -> None:
    drawn = data.draw(modes())
    size = math.prod(mode.size for mode in drawn)
    least = kind(1).num_parameters(drawn)
    if least > int(share * size):
        with pytest.raises(RankError):
            kind(share).network(drawn)
        return
    format = kind(share).explicit(drawn)
    assert least <= format.num_parameters(drawn) <= share * size
    highest = max(format.rank) if isinstance(format.rank, tuple) else format.rank
    higher = capped(kind("full"), highest + 1, drawn)
    assert higher.num_parameters(drawn) > int(share * size) or higher.num_parameters(drawn) == format.num_parameters(
        drawn
    )


def test_a_cap_lowers_and_never_raises() -> None:
    assert capped(TensorTrain((2, 3)), 2, THREE) == TensorTrain((2, 2))
    assert capped(Tucker("full"), 4, THREE) == Tucker((3, 4, 4))
    assert capped(CP(3), 9, THREE) == CP(3)


def test_the_smallest_rank_that_suits_and_else_its_own() -> None:
    format = TensorTrain((3, 4))
    assert smallest(format, THREE, lambda f: f.num_parameters(THREE) >= 20) == TensorTrain((2, 2))
    assert smallest(format, THREE, lambda f: False) == format


def test_the_largest_rank_within_a_budget() -> None:
    rank_two, rank_three = (CP(rank).num_parameters(THREE) for rank in (2, 3))
    assert largest(CP("full"), THREE, rank_three - 1) == CP(2)
    assert largest(CP(2), THREE, 10**6) == CP(2)
    with refused(RankError, "budget of 3 parameters", f"budget={rank_two // 2}"):
        largest(CP("full"), THREE, 3)


def test_a_format_without_a_rank_counts_as_rank_one() -> None:
    assert spelled_rank(Gates()) == highest_rank(Gates()) == 1
    assert highest_rank(TensorTrain((3, 5))) == 5

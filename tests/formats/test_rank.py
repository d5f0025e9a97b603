"""Ranks: ints, fractions and 'full', the limits of the modes, and the search for a rank."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tensorfact import CP, Format, MatrixBatch, TensorTrain, Tucker
from tensorfact.errors import RankError
from tensorfact.formats import TensorRing
from tensorfact.formats.rank import first_that
from tests.formats.tensors import THREE, VIT
from tests.helpers import difference, refused
from tests.strategies import FORMATS, full_rank, matrix_limit, modes, tensors, terms_limit, train_limits


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rank", [0, -1, True, False, 2.0, "4", None, [], (), (2, 0), (2, True), (2, 1.5), [3, None]])
def test_a_rank_that_is_no_count_is_refused(kind: Any, rank: Any) -> None:
    with refused(RankError, kind.__name__):
        kind(rank)


@pytest.mark.parametrize(
    ("format", "words"),
    [
        (TensorTrain(5), ["bond 1 <= 4", "rank=5", "rank=(4, 5) or less"]),
        (TensorTrain((4, 6)), ["bond 2 <= 5", "rank=(4, 6)", "rank=(4, 5)"]),
        (TensorTrain((2, 2, 2)), ["2 rank(s)", "rank=(2, 2, 2)"]),
        (TensorTrain((2,)), ["2 rank(s)", "rank=(2,)"]),
        (TensorRing(5), ["bond 1 <= 4", "closing bond <= 4", "rank=(4, 5, 4)"]),
        (TensorTrain(4, order=("layer", "in", "out")), ["bond 1 <= 3", "rank=4", "rank=(3, 4)"]),
        (Tucker(4), ["layer <= 3", "rank=4", "rank=(3, 4, 4)"]),
        (Tucker((3, 5, 5)), ["in <= 4", "rank=(3, 4, 5)"]),
        (Tucker((1, 1)), ["3 rank(s)", "rank=(1, 1)"]),
        (CP(13), ["terms <= 12", "rank=13", "use rank=12"]),
        (MatrixBatch(5), ["rank <= 4", "rank=5"]),
    ],
    ids=str,
)
def test_a_rank_above_what_the_modes_allow_is_refused(format: Format, words: list[str]) -> None:
    for use in (format.network, format.num_parameters):
        with refused(RankError, *words):
            use(THREE)


@pytest.mark.parametrize("kind", FORMATS)
@given(data=st.data())
def test_the_highest_allowed_rank_is_allowed_and_no_higher(kind: type[Format], data: st.DataObject) -> None:
    drawn = data.draw(modes())
    format = full_rank(kind, drawn)
    format.network(drawn)
    rank = format.rank  # type: ignore[attr-defined]
    above = tuple(r + 1 for r in rank) if isinstance(rank, tuple) else rank + 1
    with pytest.raises(RankError):
        kind(above).network(drawn)  # type: ignore[call-arg]


@given(data=st.data())
def test_the_fix_that_a_rank_error_names_is_right(data: st.DataObject) -> None:
    drawn, kind = data.draw(modes()), data.draw(st.sampled_from(FORMATS))
    with pytest.raises(RankError) as caught:
        kind(999).network(drawn)  # type: ignore[call-arg]
    suggested = str(caught.value).split("use rank=")[1].split(" or less")[0]
    rank = tuple(int(word) for word in suggested.strip("()").split(",") if word.strip())
    kind(rank if kind in (TensorTrain, TensorRing, Tucker) else rank[0]).network(drawn)  # type: ignore[call-arg]


def test_a_list_of_ranks_is_a_tuple_of_ranks() -> None:
    assert TensorTrain([2, 3]) == TensorTrain((2, 3))  # type: ignore[arg-type]
    assert hash(Tucker([2, 3])) == hash(Tucker((2, 3)))  # type: ignore[arg-type]


def test_the_limits_of_the_tests_own_oracle() -> None:
    """The strategies state limits by themselves; the paper's tensor is the anchor."""
    assert train_limits(VIT) == [768, 768]
    assert (terms_limit(VIT), matrix_limit(VIT)) == (144 * 768, 768)


@pytest.mark.parametrize("kind", FORMATS)
@given(data=st.data())
def test_full_is_the_highest_rank_and_exact(kind: Any, data: st.DataObject) -> None:
    drawn = data.draw(modes())
    tensor = data.draw(tensors(drawn))
    assert kind("full").num_parameters(drawn) == full_rank(kind, drawn).num_parameters(drawn)
    assert difference(kind("full").decompose(tensor, drawn).dense(), tensor) < 1e-10


@pytest.mark.parametrize("rank", [0.0, 1.5, -0.5, math.nan, math.inf, "half", "", "FULL"])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_fraction_that_is_none_is_refused(kind: Any, rank: Any) -> None:
    with refused(RankError, kind.__name__, repr(rank)):
        kind(rank)


@given(st.integers(1, 60), st.integers(1, 60))
def test_the_first_number_that_suits_is_found(least: int, high: int) -> None:
    assert first_that(lambda n: n >= least, high) == min(least, high)


@pytest.mark.parametrize(
    "rank", [numpy.array([1, 2]), torch.ones(2), numpy.zeros((2, 2)), numpy.array(["full"]), b"full"]
)
@pytest.mark.parametrize("format", [TensorTrain, CP, MatrixBatch])
def test_an_array_is_no_rank(format: Any, rank: Any) -> None:
    with refused(RankError, "'full'"):
        format(rank)

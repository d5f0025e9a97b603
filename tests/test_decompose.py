"""Decompositions: true errors, ranks by tolerance, fraction and budget; tensors of every magnitude."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorfact import CP, MatrixBatch, TensorTrain, Tucker
from tensorfact.errors import DataError, RankError
from tensorfact.formats import Decomposition, parse_format
from tensorfact.formats.rank import first_that
from tensorfact.network import Mode

from .helpers import difference, refused
from .strategies import FORMATS, formats, full_rank, modes, tensors

THREE = (Mode("layer", 3, "stack"), Mode("in", 4, "in"), Mode("out", 5, "out"))
EXACT = [TensorTrain, Tucker, MatrixBatch]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", FORMATS)
@given(data=st.data())
def test_the_error_is_the_true_one(kind: Any, data: st.DataObject) -> None:
    drawn = data.draw(modes())
    format, tensor = data.draw(formats(drawn, [kind])), data.draw(tensors(drawn))
    found = format.decompose(tensor, drawn)
    assert found.format.network(drawn).shapes() == {name: tuple(core.shape) for name, core in found.cores.items()}
    true = relative(found.dense(), tensor) if tensor.any() else 0.0
    assert found.error == pytest.approx(true, rel=1e-6, abs=1e-9)
    assert found.num_parameters == format.num_parameters(drawn)


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=25)
@given(data=st.data(), tolerance=st.sampled_from([1e-8, 1e-3, 0.1, 0.5, 0.99]))
def test_a_tolerance_is_kept_at_the_ranks_found(kind: Any, data: st.DataObject, tolerance: float) -> None:
    drawn = data.draw(modes(most=4))
    tensor = data.draw(tensors(drawn))
    found = kind("full").decompose(tensor, drawn, tolerance=tolerance)
    assert float((found.dense() - tensor).norm()) <= tolerance * float(tensor.norm()) * (1 + 1e-9) + 1e-300
    assert isinstance(found.format, kind)
    full = full_rank(kind, drawn)
    assert found.num_parameters <= full.num_parameters(drawn)


@given(data=st.data(), tolerance=st.floats(0.01, 0.9))
def test_matrix_batch_finds_the_lowest_rank(data: st.DataObject, tolerance: float) -> None:
    drawn = data.draw(modes())
    tensor = data.draw(tensors(drawn))
    found = MatrixBatch("full").decompose(tensor, drawn, tolerance=tolerance)
    rank = found.network.sizes["_r"]
    assert rank == 1 or MatrixBatch(rank - 1).decompose(tensor, drawn).error > tolerance * (1 - 1e-9)


@pytest.mark.parametrize("kind", EXACT)
def test_the_rank_of_a_tensor_is_found(kind: Any) -> None:
    """Noise below the tolerance costs no rank."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 2, generator=generator) for n in (12, 10))
    tensor = torch.einsum("ir,jr,l->lij", a, b, torch.arange(1.0, 5.0)) + 1e-5 * torch.randn(
        4, 12, 10, generator=generator
    )
    found = kind("full").decompose(tensor, tolerance=1e-3)
    expected = {TensorTrain: (2, 2), Tucker: (1, 2, 2), MatrixBatch: 2}
    assert found.format.rank == expected[kind]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_tolerance_that_the_rank_does_not_reach_is_refused(kind: Any) -> None:
    with refused(RankError, "tolerance 0.001", "relative error"):
        kind(1).decompose(random(3, 4, 5), THREE, tolerance=1e-3)


@pytest.mark.parametrize("tolerance", [0, -0.1, 1.0, 2, True, "0.1", math.nan])
def test_a_tolerance_that_is_no_share_is_refused(tolerance: Any) -> None:
    with refused(RankError, repr(tolerance)):
        TensorTrain(2).decompose(random(3, 4, 5), THREE, tolerance=tolerance)


# -------------------------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("kind", FORMATS)
@given(data=st.data())
def test_full_is_the_highest_rank_and_exact(kind: Any, data: st.DataObject) -> None:
    drawn = data.draw(modes())
    tensor = data.draw(tensors(drawn))
    assert kind("full").num_parameters(drawn) == full_rank(kind, drawn).num_parameters(drawn)
    assert difference(kind("full").decompose(tensor, drawn).dense(), tensor) < 1e-10


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
    higher = kind("full").at(highest + 1, drawn)
    assert higher.num_parameters(drawn) > int(share * size) or higher.num_parameters(drawn) == format.num_parameters(
        drawn
    )


@pytest.mark.parametrize("rank", [0.0, 1.5, -0.5, math.nan, math.inf, "half", "", "FULL"])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_fraction_that_is_none_is_refused(kind: Any, rank: Any) -> None:
    with refused(RankError, kind.__name__, repr(rank)):
        kind(rank)


def test_ranks_as_words_are_read_and_stored() -> None:
    assert parse_format("tucker:rank=full") == Tucker("full")
    assert parse_format("tt:rank=0.1") == TensorTrain(0.1)
    assert str(CP("full")) == "CP(rank=full)"


@given(st.integers(1, 60), st.integers(1, 60))
def test_the_first_number_that_suits_is_found(least: int, high: int) -> None:
    assert first_that(lambda n: n >= least, high) == min(least, high)


def test_at_lowers_and_never_raises() -> None:
    assert TensorTrain((2, 3)).at(2, THREE) == TensorTrain((2, 2))
    assert Tucker("full").at(4, THREE) == Tucker((3, 4, 4))
    assert CP(3).at(9, THREE) == CP(3)


# ------------------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("size", [1e-42, 1e-38, 1e-30, 1e-10, 1e10, 1e30, 1e37])
@pytest.mark.parametrize("kind", FORMATS)
def test_tiny_and_huge_numbers_decompose_as_any(kind: Any, size: float) -> None:
    tensor = (random(3, 4, 5) / 4 * size).float()
    found = kind("full").decompose(tensor, THREE)
    assert all(core.isfinite().all() for core in found.cores.values())
    assert difference(found.dense().double() / size, tensor.double() / size) < (2e-2 if size < 1e-37 else 1e-5)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_ends_of_the_range_decompose_too(kind: Any) -> None:
    for tensor in (torch.full((3, 4, 5), 3e38), random(3, 4, 5) * 1e-310, random(3, 4, 5) / 5 * 1e308):
        found = kind("full").decompose(tensor, THREE)
        assert all(core.isfinite().all() for core in found.cores.values())
        scale = tensor.abs().max()
        assert difference(found.dense() / scale, tensor / scale) < 1e-4
        assert found.error < 1e-4


@pytest.mark.parametrize("kind", FORMATS)
def test_zero_gives_cores_that_can_learn(kind: Any) -> None:
    found = kind(2).decompose(torch.zeros(3, 4, 5), THREE)
    assert not found.dense().any()
    assert found.error == 0
    cores = {name: core.clone().requires_grad_() for name, core in found.cores.items()}
    dataclasses.replace(found, cores=cores).dense().sum().backward()
    assert any(core.grad is not None and core.grad.any() for core in cores.values())


@pytest.mark.parametrize("kind", EXACT)
def test_fewer_directions_than_the_rank_are_no_trouble(kind: Any) -> None:
    tensor = torch.ones(3, 4, 5)
    found = kind(3).decompose(tensor, THREE)
    assert difference(found.dense(), tensor) < 1e-5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    tensor = random(3, 4, 5)
    tensor[1, 2, 3] = bad
    with refused(DataError, "1 of 60"):
        TensorTrain(2).decompose(tensor, THREE)


def test_tensors_and_modes_of_odd_kinds_are_refused() -> None:
    ones = torch.ones(3, 4, 5)
    for odd in (ones.to_sparse(), ones.to("meta"), ones.to(torch.float8_e4m3fn)):
        with refused(DataError, "dense real numbers", fix=False):
            TensorTrain(2).decompose(odd, THREE)
    for wrong in ((*THREE[:2], THREE[1]), (3, 4, 5)):
        with refused(DataError, "Mode objects", fix=False):
            TensorTrain(2).decompose(torch.ones(3, 4, 4), wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(3, 4), torch.ones(3, 4, 6), torch.ones(3, 4, 5, dtype=torch.complex64), [1.0], None],
    ids=lambda t: str(getattr(t, "shape", t)),
)
def test_what_is_no_such_tensor_is_refused(tensor: Any) -> None:
    with refused(DataError, "(3, 4, 5)", fix=False):
        TensorTrain(2).decompose(tensor, THREE)
    if not isinstance(tensor, torch.Tensor):
        with refused(DataError, fix=False):
            TensorTrain(2).decompose(tensor)


def test_modes_need_not_be_named() -> None:
    tensor = random(2, 3, 4, 5)
    found = TensorTrain("full").decompose(tensor)
    assert [mode.side for mode in found.modes] == ["stack", "stack", "in", "out"]
    assert difference(found.dense(), tensor) < 1e-12
    assert "relative error" in str(found)


def test_a_large_tensor_of_few_terms_is_found_by_cp() -> None:
    """Large tensors are brought into their leading directions first."""
    drawn = (Mode("layer", 24, "stack"), Mode("in", 220, "in"), Mode("out", 220, "out"))
    format = CP(4)
    cores = {name: random(*shape, dtype=torch.float32) for name, shape in format.network(drawn).shapes().items()}
    tensor = Decomposition(format, drawn, cores, 0.0).dense()
    assert format.decompose(tensor, drawn).error < 1e-3

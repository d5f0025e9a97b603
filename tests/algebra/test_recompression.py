"""Recompression of sums of factored tensors, compared with the dense tensors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tensorfact import CP, Format, MatrixBatch, TensorTrain, Tucker
from tensorfact.algebra import Term, bases
from tensorfact.algebra.recompression import recompress
from tensorfact.errors import RankError
from tensorfact.lab.measure import LiveBytes
from tensorfact.network import Mode
from tests.algebra.terms import dense, term
from tests.helpers import difference, refused
from tests.strategies import EXACT, FORMATS, formats, modes

VIT_L = (Mode("(layer role)", 288, "stack"), Mode("in", 1024, "in"), Mode("out", 1024, "out"))


@st.composite
def sums(draw: st.DrawFn) -> tuple[tuple[Mode, ...], list[Term]]:
    """Draw modes, and one to three factored tensors on them, of any formats."""
    drawn = draw(modes())
    count = draw(st.integers(1, 3))
    weights = st.sampled_from([1.0, -0.5, 3.0])
    return drawn, [term(draw(formats(drawn)), drawn, seed, draw(weights)) for seed in range(count)]


def relative(found: Tensor, expected: Tensor) -> float:
    norm = float(expected.norm())
    return float((found - expected).norm()) / norm if norm else float(found.norm())


@contextlib.contextmanager
def room(cut: bool) -> Iterator[float]:
    """Run the block with or without truncation of modes by Gram matrices; yield the precision to expect."""
    with pytest.MonkeyPatch.context() as patch:
        if cut:
            patch.setattr(bases, "_room", lambda parts: 0)
        yield 1e-6 if cut else 1e-10


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=8)
@given(data=st.data())
def test_full_rank_is_exact(cut: bool, kind: Any, data: st.DataObject) -> None:
    drawn, terms = data.draw(sums())
    with room(cut) as precision:
        found = recompress(terms, drawn, kind("full"))
    assert difference(found.dense(), dense(terms)) < precision
    assert found.error < precision


@pytest.mark.sampled(3)
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=8)
@given(data=st.data())
def test_the_error_is_the_true_one(cut: bool, kind: Any, data: st.DataObject) -> None:
    drawn, terms = data.draw(sums())
    format = data.draw(formats(drawn, [kind]))
    with room(cut) as precision:
        found = recompress(terms, drawn, format)
    assert found.network.shapes() == {name: tuple(core.shape) for name, core in found.cores.items()}
    assert found.error == pytest.approx(relative(found.dense(), dense(terms)), rel=1e-6, abs=10 * precision)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("cut", [False, True])
@given(data=st.data(), tolerance=st.sampled_from([1e-5, 1e-2, 0.2, 0.7]))
def test_a_tolerance_is_kept(cut: bool, kind: Any, data: st.DataObject, tolerance: float) -> None:
    drawn, terms = data.draw(sums())
    with room(cut) as precision:
        found = recompress(terms, drawn, kind("full"), tolerance=tolerance)
    assert relative(found.dense(), dense(terms)) <= tolerance + precision


@settings(max_examples=8)
@given(modes(most=3), st.sampled_from([0.2, 0.7]))
def test_cp_keeps_a_tolerance_too(drawn: tuple[Mode, ...], tolerance: float) -> None:
    terms = [term(Tucker(1), drawn), term(Tucker(1), drawn, seed=1, weight=0.5)]
    found = recompress(terms, drawn, CP("full"), tolerance=tolerance)
    assert relative(found.dense(), dense(terms)) <= tolerance + 1e-9


@pytest.mark.parametrize("kind", EXACT)
@given(data=st.data())
def test_it_is_what_decomposing_the_dense_tensor_gives(kind: Any, data: st.DataObject) -> None:
    """Orthonormal bases change no singular value, so TT-SVD, HOSVD and SVD leave the same error."""
    drawn, terms = data.draw(sums())
    format = data.draw(formats(drawn, [kind]))
    found, direct = recompress(terms, drawn, format), format.decompose(dense(terms), drawn)
    if kind is Tucker:  # its iterations may end in different places
        assert found.error <= direct.error * math.sqrt(len(drawn)) + 1e-9
    else:
        assert found.error == pytest.approx(direct.error, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("kind", EXACT)
@given(data=st.data())
def test_there_and_back_is_exact(kind: Any, data: st.DataObject) -> None:
    drawn = data.draw(modes())
    first = term(data.draw(formats(drawn)), drawn)
    there = recompress([first], drawn, kind("full"))
    for other in FORMATS:
        back = recompress([Term(there.network, there.cores)], drawn, other("full"))  # type: ignore[call-arg]
        assert difference(back.dense(), first.dense()) < 1e-9


@given(data=st.data())
def test_what_is_in_the_format_already_stays_as_it_is(data: st.DataObject) -> None:
    drawn = data.draw(modes())
    format = data.draw(formats(drawn))
    only = term(format, drawn, weight=-2.0)
    for found in (recompress([only], drawn, format), recompress([only], drawn, format, tolerance=0.01)):
        assert difference(found.dense(), only.dense()) < (1e-10 if found.error == 0 else 0.1)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_tolerance_that_a_rank_does_not_reach_is_refused(kind: Any) -> None:
    drawn = (Mode("l", 3, "stack"), Mode("in", 4, "in"), Mode("out", 5, "out"))
    with refused(RankError, "tolerance 0.001"):
        recompress([term(MatrixBatch(4), drawn)], drawn, kind(1), tolerance=1e-3)


@given(data=st.data())
def test_zero_stays_zero(data: st.DataObject) -> None:
    drawn = data.draw(modes())
    format, only = data.draw(formats(drawn)), term(data.draw(formats(drawn)), drawn, weight=0.0)
    assert not recompress([only], drawn, format).dense().any()


def test_rounding_a_large_train_takes_little_memory() -> None:
    """Less than a twentieth of the dense tensor: 64 to 16 on ViT-L. How long it takes is in the benchmarks."""
    large = term(TensorTrain(64), VIT_L)
    with LiveBytes() as live:
        found = recompress([large], VIT_L, TensorTrain(16))
    dense_bytes = 4 * math.prod(mode.size for mode in VIT_L)
    assert live.peak < 0.05 * dense_bytes
    assert found.num_parameters == 106_496


@pytest.mark.parametrize("format", [TensorTrain(16), Tucker(16), CP(8)], ids=str)
def test_lora_of_all_layers_becomes_one_tensor_without_forming_it(format: Format) -> None:
    drawn = (Mode("(layer role)", 96, "stack"), Mode("in", 512, "in"), Mode("out", 512, "out"))
    lora = term(MatrixBatch(6), drawn)  # 576 columns on 512 rows: no QR makes a mode smaller
    with LiveBytes() as live:
        found = recompress([lora], drawn, format)
    assert live.peak < 8 * math.prod(mode.size for mode in drawn) // 2, "fp64 dense"
    assert 0 < found.error < 1

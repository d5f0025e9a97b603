"""Other ranks for the same increments: raised ranks change nothing and can be trained, lowered ones truncate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tensorfact import CP, Adapter, Format, MatrixBatch, TensorTrain, Tucker, adapt
from tensorfact.algebra import Term, resize_ranks
from tensorfact.algebra.growth import grown_format, widened
from tensorfact.errors import AdaptError, DataError, FormatError, RankError
from tensorfact.formats import BlockTerm, Diagonals, Hadamard, ReshapedTucker, Started, TensorRing, TTMatrix
from tensorfact.network import Mode
from tests.algebra.terms import term
from tests.bundled import X, nano, plan
from tests.helpers import difference, refused, untouched
from tests.strategies import FORMATS, formats, modes

KINDS: list[Format] = [
    *(TensorTrain(2), TensorTrain((2, 1)), TensorRing(2), Tucker(2), CP(2), MatrixBatch(2), BlockTerm(2), Hadamard(2)),
    Started(TensorTrain(2), {"V": "normal"}),
]


def adapted(
    format: Format, *, fresh: bool = False, apart: bool = False, **options: Any
) -> tuple[torch.nn.Module, Adapter]:
    """Return an adapted model: fresh, or with random cores; layers and roles are one mode, or apart."""
    model, folded = nano(), plan().arranged("layer role in out") if apart else plan()
    adapter = adapt(model, folded, format, seed=0, **options)
    if not fresh:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for core in adapter.parameters():
                core.copy_(torch.randn(core.shape, generator=generator) / 8)
    return model, adapter


def deltas(adapter: Adapter) -> dict[str, Tensor]:
    return {name: adapter.delta(name) for name in adapter.resolved.parameters}


@pytest.mark.parametrize("kind", [*FORMATS, BlockTerm, Hadamard])
@given(data=st.data())
@settings(max_examples=15)
def test_wider_bonds_leave_the_tensor_as_it_is(kind: Any, data: st.DataObject) -> None:
    drawn = data.draw(modes())
    format = data.draw(formats(drawn, [kind])) if kind in FORMATS else kind(1)
    wider = grown_format(format, drawn)
    before = term(format, drawn)
    cores = widened(before.network, before.cores, wider.network(drawn), drawn, torch.Generator().manual_seed(0))
    assert cores is not None
    assert {name: tuple(core.shape) for name, core in cores.items()} == wider.network(drawn).shapes()
    assert difference(Term(wider.network(drawn), cores).dense(), before.dense()) < 1e-12


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("format", "fresh"), [*((kind, False) for kind in KINDS), (TensorTrain(2), True), (Tucker(2), True)], ids=str
)
def test_raised_ranks_change_no_increment_and_train(format: Format, fresh: bool) -> None:
    model, adapter = adapted(format, fresh=fresh)
    expected, before = deltas(adapter), {name: core.shape for name, core in adapter.named_cores().items()}
    wider = grown_format(format, adapter.resolved.tensors[0].modes)
    found = adapter.resize(wider, seed=3)
    assert found.changes[0].format == wider.explicit(adapter.resolved.tensors[0].modes)
    assert all(torch.allclose(delta, expected[name], atol=1e-5) for name, delta in deltas(adapter).items())
    optimizer = torch.optim.SGD(adapter.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
    for name, core in adapter.named_cores().items():
        assert core.grad is not None
        for dim, (have, now) in enumerate(zip(before[name], core.shape, strict=True)):
            if now > have:
                assert core.grad.narrow(dim, have, now - have).any(), name


def test_only_bonds_below_their_limit_grow() -> None:
    square = (Mode("layer", 2, "stack"), Mode("in", 3, "in"), Mode("out", 6, "out"))
    assert grown_format(TensorTrain((3, 4)), square) == TensorTrain((3, 6))
    before = term(TensorTrain((3, 4)), square)
    network = TensorTrain((3, 6)).network(square)
    cores = widened(before.network, before.cores, network, square, torch.Generator().manual_seed(0))
    assert cores is not None
    assert difference(Term(network, cores).dense(), before.dense()) < 1e-12
    assert cores["S1"][:, :, 4:].any()
    tied = TensorTrain((2, 6))
    before, network = term(tied, square), TensorTrain((3, 6)).network(square)
    cores = widened(before.network, before.cores, network, square, torch.Generator().manual_seed(0))
    assert cores is not None
    assert cores["U"][:, 2:].any() != cores["S1"][2:].any(), "one of them is zero"
    assert difference(Term(network, cores).dense(), before.dense()) < 1e-12


def test_ranks_rise_and_fall_at_once() -> None:
    _, adapter = adapted(TensorTrain((6, 2)))
    expected = deltas(adapter)
    found = adapter.resize(TensorTrain((2, 6)))
    assert found.changes[0].format == TensorTrain((2, 6))
    assert found.changes[0].error < 1
    assert any(difference(delta, expected[name]) > 1e-3 for name, delta in deltas(adapter).items())
    same = resize_ranks(adapter, TensorTrain((2, 6)))
    assert all(
        torch.equal(core, same.state.cores("encoder")[name.split(".")[1]])
        for name, core in adapter.named_cores().items()
    )


def test_a_fresh_adapter_keeps_the_values_that_its_seed_drew() -> None:
    _, adapter = adapted(TensorTrain(4), fresh=True)
    before = {name: core.detach().clone() for name, core in adapter.named_cores().items()}
    adapter.resize(TensorTrain(2))
    for name, core in adapter.named_cores().items():
        assert torch.equal(core, before[name][tuple(map(slice, core.shape))])
    assert not any(delta.any() for delta in deltas(adapter).values())


def test_formats_with_frozen_cores_keep_their_ranks_once_trained() -> None:
    for format in (Diagonals(TensorTrain(4)), ReshapedTucker(4)):
        _, adapter = adapted(format, apart=True)
        wider = format.with_rank(6)
        count = adapter.num_parameters
        assert adapter.resize(wider).changes[0].format == format
        assert adapter.num_parameters == count
    _, adapter = adapted(ReshapedTucker(4), fresh=True, apart=True)
    assert adapter.resize(ReshapedTucker(6)).changes[0].format == ReshapedTucker(6)
    assert not any(delta.any() for delta in deltas(adapter).values())


def test_a_subtracted_start_becomes_part_of_the_factors() -> None:
    _, adapter = adapted(Started(TensorTrain(2), {"V": "normal"}), subtract_start=True)
    expected = deltas(adapter)
    adapter.resize(Started(TensorTrain(4), {"V": "normal"}))
    assert all(torch.allclose(delta, expected[name], atol=1e-5) for name, delta in deltas(adapter).items())
    assert not adapter.starts


def test_what_cannot_be_resized_is_refused() -> None:
    model, adapter = adapted(TensorTrain(2))
    with untouched(model):
        with refused(FormatError, "Tucker(rank=2)", "adapter.convert(format)"):
            adapter.resize(Tucker(2))
        with refused(RankError, "bond"):
            adapter.resize(TensorTrain(10_000))
        with refused(AdaptError, "resize_ranks: seed"):
            adapter.resize(TensorTrain(3), seed=-1)
    with torch.no_grad():
        next(iter(adapter.parameters())).fill_(float("nan"))
    with refused(DataError, "NaN"):
        adapter.resize(TensorTrain(3))


def test_train_matrices_grow_too() -> None:
    pairs = tuple(Mode(name, 3, side) for name, side in (("a", "in"), ("b", "in"), ("c", "out"), ("d", "out")))  # type: ignore[arg-type]
    before = term(TTMatrix(2), pairs)
    network = TTMatrix(3).network(pairs)
    cores = widened(before.network, before.cores, network, pairs, torch.Generator().manual_seed(0))
    assert cores is not None
    assert difference(Term(network, cores).dense(), before.dense()) < 1e-12

"""All formats: networks, counts and decompositions; tensorly and plain torch are the independent oracles."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.cp_tensor import cp_to_tensor
from tensorly.tr_tensor import tr_to_tensor
from tensorly.tt_tensor import tt_to_tensor
from tensorly.tucker_tensor import tucker_to_tensor
from torch import Tensor

from tensorfact import CP, Format, MatrixBatch, TensorTrain, Tucker
from tensorfact.adapters.factors import Factors
from tensorfact.errors import RankError
from tensorfact.formats import BlockTerm, Each, Gates, TensorRing, TTMatrix
from tensorfact.network import Mode, Network
from tests.formats.tensors import THREE, VIT, dense, fitted, random, random_cores
from tests.helpers import difference, refused
from tests.strategies import EXACT, FORMATS, chain, formats, full_rank, modes, tensors


def by_legs(network: Network, cores: Mapping[str, Tensor], legs: Sequence[str]) -> Tensor:
    """Return the one core that has exactly these legs, its dimensions in their order."""
    (name,) = [core.name for core in network.cores if set(core.legs) == set(legs)]
    return ordered(network, cores, name, legs)


def ordered(network: Network, cores: Mapping[str, Tensor], name: str, legs: Sequence[str]) -> Tensor:
    """Return a core with its dimensions in the order of these legs."""
    (core,) = [core for core in network.cores if core.name == name]
    return cores[name].permute([core.legs.index(leg) for leg in legs])


def oracle(format: Format, modes: Sequence[Mode], network: Network, cores: Mapping[str, Tensor]) -> Tensor:
    """Form the dense tensor by somebody else's code, from the cores found by their legs."""
    names = [mode.name for mode in modes]
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        if isinstance(format, TensorTrain):
            along = [mode.name for mode in chain(modes, format.order)]
            # Bonds have no sizes in common with modes, so a core's legs tell its place; the ends get a bond of size 1.
            train = [cores[core.name] for name in along for core in network.cores if name in core.legs]
            train[0], train[-1] = train[0].unsqueeze(0), train[-1].unsqueeze(-1)
            whole: Tensor = tt_to_tensor(train)
            return whole.permute([along.index(name) for name in names])
        if isinstance(format, TensorRing):
            along = [mode.name for mode in chain(modes, None)]
            ring = [cores[core.name] for name in along for core in network.cores if name in core.legs]
            if len(ring) == 1:
                return ring[0]
            closed: Tensor = tr_to_tensor(ring)
            return closed.permute([along.index(name) for name in names])
        if isinstance(format, Tucker):
            core = by_legs(network, cores, [f"_{name}" for name in names])
            found: Tensor = tucker_to_tensor((core, [by_legs(network, cores, (n, f"_{n}")) for n in names]))
            return found
        if isinstance(format, CP):
            summed: Tensor = cp_to_tensor((None, [by_legs(network, cores, (n, "_r")) for n in names]))
            return summed
    sides = {side: [mode for mode in modes if mode.side == side] for side in ("stack", "in", "out")}
    batch, rows, columns = (math.prod(mode.size for mode in side) for side in sides.values())
    stack, inputs, outputs = ([mode.name for mode in side] for side in sides.values())
    a = ordered(network, cores, "A", [*stack, *inputs, "_r"]).reshape(batch, rows, -1)
    b = ordered(network, cores, "B", [*stack, "_r", *outputs]).reshape(batch, -1, columns)
    order = [mode.name for side in sides.values() for mode in side]
    product = torch.bmm(a, b).reshape([mode.size for side in sides.values() for mode in side])
    return product.permute([order.index(name) for name in names])


# -------------------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("kind", FORMATS)
@given(data=st.data())
def test_dense_is_what_tensorly_or_torch_makes_of_the_cores(kind: type[Format], data: st.DataObject) -> None:
    drawn, format = data.draw(fitted(kind))
    network = format.network(drawn)
    cores = random_cores(network)
    assert difference(dense(network, cores), oracle(format, drawn, network, cores)) < 1e-10


@pytest.mark.parametrize("kind", FORMATS)
@given(data=st.data())
def test_a_network_keeps_the_modes_and_starts_at_zero(kind: type[Format], data: st.DataObject) -> None:
    drawn, format = data.draw(fitted(kind))
    network = format.network(drawn)
    assert network.output == tuple(mode.name for mode in drawn)
    assert network.shape(network.output) == tuple(mode.size for mode in drawn)
    assert [core.start for core in network.cores].count("zero") == 1
    assert network.cores[-1].start == "zero"
    assert not Factors(network, drawn).dense().any()


@pytest.mark.parametrize(
    ("format", "count"),
    [
        *[(TensorTrain(r), 2 * 768 * r + 144 * r**2) for r in (1, 2, 4, 8, 16, 32)],
        *[(Tucker(r), 2 * 768 * r + 144 * r + r**3) for r in (1, 2, 4, 8, 16, 32)],
        *[(CP(r), r * (144 + 768 + 768)) for r in (1, 8, 64)],
        *[(TensorRing(r), r**2 * (144 + 768 + 768)) for r in (1, 8)],
        *[(MatrixBatch(r), 144 * 2 * 768 * r) for r in (1, 8)],
        (TensorTrain((16, 8)), 768 * 16 + 16 * 144 * 8 + 8 * 768),
        (Tucker((4, 8, 16)), 144 * 4 + 768 * 8 + 768 * 16 + 4 * 8 * 16),
        (TensorTrain(4, order=("(layer role)", "in", "out")), 144 * 4 + 4 * 768 * 4 + 4 * 768),
    ],
    ids=str,
)
def test_the_count_is_the_closed_form(format: Format, count: int) -> None:
    assert format.num_parameters(VIT) == count


@pytest.mark.parametrize("format", [TensorTrain(1), TensorRing(1), Tucker(1), CP(1), MatrixBatch(1)], ids=str)
@pytest.mark.parametrize("side", ["stack", "in", "out"])
def test_a_tensor_of_one_mode_has_a_network(format: Format, side: Any) -> None:
    one = (Mode("m", 4, side),)
    network = format.network(one)
    assert dense(network, random_cores(network)).shape == (4,)


@pytest.mark.parametrize(
    ("format", "text"),
    [(TensorTrain(4), "TensorTrain(rank=4)"), (CP(2), "CP(rank=2)"), (Tucker((1, 2)), "Tucker(rank=(1, 2))")],
)
def test_a_format_prints_its_options(format: Format, text: str) -> None:
    assert str(format) == text


# -------------------------------------------------------------------------------------------------------- decomposition


@pytest.mark.parametrize("kind", FORMATS)
@given(data=st.data())
def test_decomposing_gives_finite_cores_of_the_network_s_shapes(kind: type[Format], data: st.DataObject) -> None:
    drawn, format = data.draw(fitted(kind))
    network, tensor = format.network(drawn), data.draw(tensors(drawn))
    cores = format.decompose(tensor, drawn).cores
    assert {name: tuple(core.shape) for name, core in cores.items()} == network.shapes()
    assert all(core.isfinite().all() for core in cores.values())


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_decomposing_works_in_at_least_fp32(kind: type[Format], dtype: torch.dtype) -> None:
    tensor = (
        (torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)) * 8)
        .to(dtype)
        .requires_grad_(dtype.is_floating_point)
    )
    format = full_rank(kind, THREE)
    cores = format.decompose(tensor, THREE).cores
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert {core.dtype for core in cores.values()} == {expected}
    assert not any(core.requires_grad for core in cores.values())
    if kind is not CP:
        assert difference(dense(format.network(THREE), cores), tensor.detach().to(expected)) < 1e-5


@pytest.mark.parametrize(
    "format", [TensorTrain(1), TensorRing(1), Tucker(1), Tucker(4), CP(1), MatrixBatch(1)], ids=str
)
def test_a_tensor_of_one_mode_decomposes(format: Format) -> None:
    one, tensor = (Mode("out", 4, "out"),), torch.tensor([1.0, -2.0, 3.0, 0.5])
    found = dense(format.network(one), format.decompose(tensor, one).cores)
    assert difference(found, tensor) < 1e-6


@pytest.mark.parametrize("kind", FORMATS)
def test_decomposing_twice_gives_the_same_numbers(kind: type[Format]) -> None:
    tensor = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    format = kind(2)  # type: ignore[call-arg]
    first, second = (format.decompose(tensor, THREE).cores for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_warning_is_needed_to_decompose_a_vit_sized_stack() -> None:
    drawn = (Mode("layer", 6, "stack"), Mode("in", 24, "in"), Mode("out", 24, "out"))
    tensor = torch.randn(6, 24, 24, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for format in (TensorTrain(8), TensorRing(4), Tucker((4, 8, 8)), CP(8), MatrixBatch(4)):
            error = float((dense(format.network(drawn), format.decompose(tensor, drawn).cores) - tensor).norm())
            assert error < float(tensor.norm())


def test_axes_of_any_name_meet_no_leg_of_a_format() -> None:
    modes = [*(Mode(name, 4, "in") for name in "bra"), *(Mode(name, 4, "out") for name in "cde")]
    for format in (BlockTerm(2), Gates(), Each(TTMatrix(2)), Tucker(2), CP(2, weights=True)):
        assert format.network(modes).output == tuple("bracde")


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


# -------------------------------------------------------------------------------------------------------------- numbers


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

"""Formats: networks, ranks and decompositions; tensorly and plain torch are the independent oracles."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import tensorly
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorly.cp_tensor import cp_to_tensor
from tensorly.tr_tensor import tr_to_tensor
from tensorly.tt_tensor import tt_to_tensor
from tensorly.tucker_tensor import tucker_to_tensor
from torch import Tensor

from tensorfact import CP, Format, MatrixBatch, TensorTrain, Tucker
from tensorfact.adapters.factors import Factors
from tensorfact.errors import FormatError, RankError
from tensorfact.formats import BlockTerm, Diagonals, Each, Gates, KhatriRao, Nested, Started, TensorRing, TTMatrix
from tensorfact.network import Mode, Network, plan_contraction

from .helpers import difference, refused
from .strategies import FORMATS, chain, formats, full_rank, matrix_limit, modes, tensors, terms_limit, train_limits

VIT = (Mode("(layer role)", 144, "stack"), Mode("in", 768, "in"), Mode("out", 768, "out"))
THREE = (Mode("layer", 3, "stack"), Mode("in", 4, "in"), Mode("out", 5, "out"))


def random_cores(network: Network, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in network.shapes().items()}


def dense(network: Network, cores: Mapping[str, Tensor]) -> Tensor:
    return plan_contraction(network)([cores[core.name] for core in network.cores])


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


@st.composite
def fitted(draw: st.DrawFn, kind: type[Format]) -> tuple[tuple[Mode, ...], Format]:
    """Draw modes and a format that they allow."""
    drawn = draw(modes())
    return drawn, draw(formats(drawn, [kind]))


# ------------------------------------------------------------------------------------------------------------ network


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


def test_the_paper_s_chain() -> None:
    cores = {core.name: core.legs for core in TensorTrain(16).network(VIT).cores}
    assert cores == {"U": ("in", "_1"), "S1": ("_1", "(layer role)", "_2"), "V": ("_2", "out")}


@pytest.mark.parametrize("format", [TensorTrain(1), TensorRing(1), Tucker(1), CP(1), MatrixBatch(1)], ids=str)
@pytest.mark.parametrize("side", ["stack", "in", "out"])
def test_a_tensor_of_one_mode_has_a_network(format: Format, side: Any) -> None:
    one = (Mode("m", 4, side),)
    network = format.network(one)
    assert dense(network, random_cores(network)).shape == (4,)


# -------------------------------------------------------------------------------------------------------------- ranks


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
        (CP(13), ["terms <= 12", "rank=13", "rank=(12,)"]),
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


@pytest.mark.parametrize("order", [("in", "out"), ("in", "layer", "layer"), ("in", "layer", "up"), ()])
def test_an_order_names_every_mode_once(order: Any) -> None:
    with refused(FormatError, "order", repr(tuple(order)), fix=False):
        TensorTrain(2, order).network(THREE)


@pytest.mark.parametrize("order", [5, True, (1, "in", "out"), ("in", None, "out")])
def test_an_order_that_is_no_list_of_names_is_refused(order: Any) -> None:
    with refused(FormatError, fix=False):
        TensorTrain(2, order).network(THREE)


def test_a_list_of_ranks_is_a_tuple_of_ranks() -> None:
    assert TensorTrain([2, 3]) == TensorTrain((2, 3))  # type: ignore[arg-type]
    assert hash(Tucker([2, 3])) == hash(Tucker((2, 3)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("format", "text"),
    [(TensorTrain(4), "TensorTrain(rank=4)"), (CP(2), "CP(rank=2)"), (Tucker((1, 2)), "Tucker(rank=(1, 2))")],
)
def test_a_format_prints_its_options(format: Format, text: str) -> None:
    assert str(format) == text


# ------------------------------------------------------------------------------------------------------ decomposition


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


@pytest.mark.parametrize(
    ("format", "sizes"),
    [
        (TensorTrain((1, 4)), (2, 2, 4)),
        (TensorTrain((2, 1, 2, 4)), (2, 2, 2, 2, 4)),
        (Tucker((4, 1, 1)), (4, 4, 4)),
        (Tucker((1, 2, 3)), (3, 3, 3)),
    ],
    ids=str,
)
def test_ranks_wider_than_their_neighbours_need_decompose_all_the_same(format: Format, sizes: list[int]) -> None:
    """A network that allows training at these ranks must take a decomposition too; surplus columns may be anything."""
    drawn = tuple(Mode(f"m{k}", size, "stack") for k, size in enumerate(sizes))
    tensor = torch.randn(*sizes, generator=torch.Generator().manual_seed(0))
    cores = format.decompose(tensor, drawn).cores
    assert {name: tuple(core.shape) for name, core in cores.items()} == format.network(drawn).shapes()
    assert float((dense(format.network(drawn), cores) - tensor).norm()) < float(tensor.norm())


@pytest.mark.parametrize("kind", FORMATS)
def test_decomposing_leaves_tensorly_and_torch_as_they_were(kind: type[Format]) -> None:
    state, backend = torch.get_rng_state(), tensorly.get_backend()
    full_rank(kind, THREE).decompose(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)), THREE)
    assert torch.equal(torch.get_rng_state(), state)
    assert tensorly.get_backend() == backend


@pytest.mark.parametrize("kind", FORMATS)
def test_decomposing_twice_gives_the_same_numbers(kind: type[Format]) -> None:
    tensor = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    format = kind(2)  # type: ignore[call-arg]
    first, second = (format.decompose(tensor, THREE).cores for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


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


@given(data=st.data())
def test_matrix_batch_is_the_best_of_every_slice(data: st.DataObject) -> None:
    drawn = data.draw(modes())
    tensor = data.draw(tensors(drawn))
    rank = data.draw(st.integers(1, matrix_limit(drawn)))
    found = dense(MatrixBatch(rank).network(drawn), MatrixBatch(rank).decompose(tensor, drawn).cores)
    order = [at for side in ("stack", "in", "out") for at, mode in enumerate(drawn) if mode.side == side]
    stack, rows = (math.prod(m.size for m in drawn if m.side == side) for side in ("stack", "in"))
    singular = torch.linalg.svdvals(tensor.permute(order).reshape(stack, rows, -1))
    best = singular[:, rank:].square().sum().sqrt()
    assert float((found - tensor).norm()) == pytest.approx(
        float(best), rel=1e-6, abs=1e-9 * float(tensor.norm()) + 1e-12
    )


def test_frozen_cores_are_fitted_too() -> None:
    """What is not trained may still be decomposed into: the frozen cores are then others than the seed's."""
    tensor = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    for format in (Diagonals(TensorTrain(3)), Started(TensorTrain(3), frozen=["U"])):
        found = format.decompose(tensor, THREE)
        again = format.decompose(found.dense(), THREE)
        assert again.error < 0.05  # least squares stop at a local minimum


def test_a_format_that_knows_no_decomposition_of_its_own_is_fitted() -> None:
    @dataclasses.dataclass(frozen=True)
    class Plain(TensorTrain):
        factorize = Format.factorize  # type: ignore[assignment]
        within = Format.within

    tensor = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    fitted, exact = Plain(2).decompose(tensor, THREE), TensorTrain(2).decompose(tensor, THREE)
    assert fitted.error <= exact.error + 1e-3
    assert Plain("full").decompose(tensor, THREE, tolerance=1e-4).error <= 1e-4


def test_the_limits_of_the_tests_own_oracle() -> None:
    """The strategies state limits by themselves; the paper's tensor is the anchor."""
    assert train_limits(VIT) == [768, 768]
    assert (terms_limit(VIT), matrix_limit(VIT)) == (144 * 768, 768)


def test_no_warning_is_needed_to_decompose_a_vit_sized_stack() -> None:
    drawn = (Mode("layer", 6, "stack"), Mode("in", 24, "in"), Mode("out", 24, "out"))
    tensor = torch.randn(6, 24, 24, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for format in (TensorTrain(8), TensorRing(4), Tucker((4, 8, 8)), CP(8), MatrixBatch(4)):
            error = float((dense(format.network(drawn), format.decompose(tensor, drawn).cores) - tensor).norm())
            assert error < float(tensor.norm())


def test_a_factored_core_stays_frozen_and_a_given_one_is_not_factored() -> None:
    frozen = Nested(Started(MatrixBatch(2), frozen=["A"]), {"A": TensorTrain(1)}).network(THREE)
    assert {core.name: core.trained for core in frozen.cores} == {"A_U": False, "A_S1": False, "A_V": False, "B": True}
    for outer in (Started(MatrixBatch(2), {"A": "normal:5"}), KhatriRao()):
        name = outer.network(THREE).cores[0].name
        with refused(FormatError, f"core {name!r} starts"):
            Nested(outer, {name: TensorTrain(1)}).network(THREE)


def test_axes_of_any_name_meet_no_leg_of_a_format() -> None:
    modes = [*(Mode(name, 4, "in") for name in "bra"), *(Mode(name, 4, "out") for name in "cde")]
    for format in (BlockTerm(2), Gates(), Each(TTMatrix(2)), Tucker(2), CP(2, weights=True)):
        assert format.network(modes).output == tuple("bracde")


@pytest.mark.parametrize("value", [0.0, math.nan, "abc", (1,), None])
def test_a_diagonal_that_cannot_learn_is_refused(value: Any) -> None:
    with refused(FormatError, "Diagonals"):
        Diagonals(TensorTrain(2), value)

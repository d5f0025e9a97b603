"""Cuts: both halves together equal the network, and their cost equals a count by hand."""

from __future__ import annotations

import dataclasses
import itertools
import math
import string
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tensorfact import MatrixBatch, TensorTrain
from tensorfact.formats import Started
from tensorfact.network import Core, Cost, Cut, Mode, Network, cuts
from tensorfact.network.cost import product
from tensorfact.network.cut import FEW
from tests.helpers import difference
from tests.strategies import Adaptation, adaptations, networks

Operands = dict[str, Tensor]


def operands(network: Network) -> Operands:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in network.shapes().items()}


def einsum(terms: Sequence[tuple[tuple[str, ...], Tensor]], output: Sequence[str]) -> Tensor:
    """Contract with one einsum, as an independent reference."""
    legs = dict.fromkeys(leg for own, _ in terms for leg in own)
    letters = dict(zip(legs, string.ascii_letters, strict=False))
    spelled = ["".join(letters[leg] for leg in own) for own in (*(own for own, _ in terms), output)]
    return torch.einsum(f"{','.join(spelled[:-1])}->{spelled[-1]}", *(tensor for _, tensor in terms))


def contracted(network: Network, held: Operands) -> Tensor:
    return einsum([(core.legs, held[core.name]) for core in network.cores], network.output)


def check(cut: Cut, network: Network, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Check all documented properties of a cut."""
    held = operands(network)
    halves = [(half.output, contracted(half, held)) for half in (cut.down, cut.up)]
    assert difference(einsum(halves, network.output), contracted(network, held)) < 1e-12
    assert sorted(core.name for half in (cut.down, cut.up) for core in half.cores) == sorted(held)
    below, above = ({leg for core in half.cores for leg in core.legs} for half in (cut.down, cut.up))
    assert set(cut.blocks) == below & above & set(network.output)
    assert set(cut.blocks) <= set(inputs if cut.over_inputs else outputs)
    assert cut.bond == math.prod(network.shape(sorted(below & above)))
    bond = tuple(leg for leg in cut.down.output if leg in above and leg not in cut.blocks)
    assert cut.down.output == (*cut.blocks, *bond, *(leg for leg in inputs if leg not in cut.blocks))
    assert cut.up.output == (*cut.blocks, *bond, *(leg for leg in outputs if leg not in cut.blocks))


@given(networks(), st.data())
def test_the_halves_of_every_cut_contract_to_the_whole(network: Network, data: st.DataObject) -> None:
    inputs = tuple(leg for leg in network.output if data.draw(st.booleans(), label=leg))
    outputs = tuple(leg for leg in network.output if leg not in inputs)
    found = list(cuts(network, inputs, outputs))
    for cut in found:
        check(cut, network, inputs, outputs)
    lower = [frozenset(core.name for core in cut.down.cores) for cut in found]
    assert len(set(lower)) == len(lower)


@given(adaptations(called=True))
def test_the_cuts_of_an_adapted_layer_contract_to_its_increment(adaptation: Adaptation) -> None:
    _, adapter = adaptation.drawn(torch.float64)
    for kind in {slot.increment.kind for slot in adapter._slots.values()}:
        found = list(cuts(kind.network, kind.view.inputs, kind.view.outputs))
        for cut in found:
            check(cut, kind.network, kind.view.inputs, kind.view.outputs)
        assert kind.halves is None or kind.halves.cut in found


def test_a_network_with_a_core_of_inputs_and_outputs_is_not_cut() -> None:
    cores = (Core("A", ("in1", "out1")), Core("B", ("in2", "out2")))
    network = Network(cores, ("in1", "in2", "out1", "out2"), {"in1": 2, "in2": 3, "out1": 4, "out2": 5})
    assert not list(cuts(network, ("in1", "in2"), ("out1", "out2")))


def test_a_single_core_is_not_cut() -> None:
    network = Network((Core("A", ("in", "out")),), ("in", "out"), {"in": 2, "out": 3})
    assert not list(cuts(network, ("in",), ("out",)))


def test_a_network_that_shares_inputs_and_outputs_is_not_cut() -> None:
    """Blocks on both sides of the bond are not allowed: the halves would not be matrices."""
    cores = (Core("A", ("in", "x", "y")), Core("B", ("x", "y", "out")))
    network = Network(cores, ("x", "in", "y", "out"), {"in": 2, "out": 3, "x": 2, "y": 2})
    assert not list(cuts(network, ("x", "in"), ("y", "out")))
    (over_inputs,), (over_outputs,) = (
        list(cuts(network, *sides)) for sides in ((("x", "y", "in"), ("out",)), (("in",), ("x", "y", "out")))
    )
    assert (over_inputs.over_inputs, over_outputs.over_inputs) == (True, False)
    assert over_inputs.bond == over_outputs.bond == 4


def test_blocks_may_be_all_inputs_or_all_outputs() -> None:
    cores = (Core("A", ("in", "x")), Core("B", ("in", "x", "out")))
    network = Network(cores, ("in", "out"), {"in": 2, "out": 3, "x": 2})
    ((over_inputs,), (over_outputs,)) = (list(cuts(network, *s)) for s in ((("in",), ("out",)), (("out",), ("in",))))
    assert (over_inputs.blocks, over_inputs.over_inputs) == (("in",), True)
    assert not over_outputs.over_inputs


def test_without_a_bond_one_number_passes() -> None:
    network = Network((Core("A", ("in",)), Core("B", ("out",))), ("in", "out"), {"in": 2, "out": 3})
    (cut,) = cuts(network, ("in",), ("out",))
    assert (cut.bond, cut.blocks) == (1, ())
    check(cut, network, ("in",), ("out",))


def chain(count: int) -> Network:
    """A chain of cores from `in` to `out`, the bonds of sizes 1, 2, 3, 1, 2, 3 and so on."""
    legs = ["in", *(f"_{k}" for k in range(1, count)), "out"]
    cores = tuple(Core(f"C{k}", pair) for k, pair in enumerate(itertools.pairwise(legs)))
    return Network(cores, ("in", "out"), {"in": 5, "out": 4, **{f"_{k}": 1 + k % 3 for k in range(1, count)}})


@pytest.mark.parametrize("count", [2, 3, FEW])
def test_of_few_cores_every_division_is_looked_at(count: int) -> None:
    network = chain(count)
    found = list(cuts(network, ("in",), ("out",)))
    assert len(found) == 2 ** (count - 2)  # the first core is below the cut, the last above it
    for cut in found:
        check(cut, network, ("in",), ("out",))


@pytest.mark.parametrize("backwards", [False, True])
def test_many_cores_are_divided_along_their_order_only(backwards: bool) -> None:
    count = FEW + 1
    network = chain(count)
    inputs, outputs = (("out",), ("in",)) if backwards else (("in",), ("out",))
    found = list(cuts(network, inputs, outputs))
    names = [core.name for core in network.cores]
    below = sorted([core.name for core in cut.down.cores] for cut in found)
    assert below == sorted(names[k:] if backwards else names[:k] for k in range(1, count))
    for cut in found:
        check(cut, network, inputs, outputs)
        at = len(cut.up.cores if backwards else cut.down.cores)
        assert cut.bond == network.sizes[f"_{at}"]


# ------------------------------------------------------------------------------------------------------------- costs


def test_a_plain_cut_costs_what_a_count_by_hand_says() -> None:
    """A tensor-train of rank 3 on a weight of 10 x 6: five tokens meet 6 x 3, their results 3 x 10."""
    modes = (Mode("in", 6, "in"), Mode("out", 10, "out"))
    (cut,) = cuts(TensorTrain(3).network(modes), ("in",), ("out",))
    assert (cut.bond, cut.blocks) == (3, ())
    #           x down                  h up
    flops = 2 * 5 * 6 * 3 + 2 * 5 * 3 * 10
    moved = (5 * 6 + 6 * 3 + 5 * 3) + (5 * 3 + 3 * 10 + 5 * 10)
    assert cut.forward(5) == Cost(flops, moved, 0, 2)
    #           g up                       to_h down                  to_h x                      h g
    moved += (5 * 10 + 10 * 3 + 5 * 3) + (5 * 3 + 3 * 6 + 5 * 6) + (3 * 5 + 5 * 6 + 3 * 6) + (3 * 5 + 5 * 10 + 30)
    kept = 5 * 6 + 5 * 3  # x and h
    assert cut.training(5) == Cost(3 * flops, moved, kept, 6)
    #              the product                            a copy
    forming = Cost(2 * 10 * 3 * 6 + 60, 10 * 3 + 3 * 6 + 60 + 2 * 60, 0, 2)
    assert cut.forming == forming
    gradients = (5 * 10 + 10 * 3 + 5 * 3) + (3 * 5 + 5 * 6 + 3 * 6) + (3 * 5 + 5 * 10 + 30) + (5 * 6 + 6 * 3 + 5 * 3)
    own = Cost(2 * flops, gradients, 5 * 6, 4)
    assert cut.formed(5, together=False) == own + 2 * forming
    assert cut.formed(5, together=True) == own + dataclasses.replace(forming, launches=0, kept=60)


@pytest.mark.parametrize(("frozen", "kept"), [("U", 5 * 3), ("V", 5 * 6)])
def test_a_frozen_side_costs_no_gradient_and_keeps_nothing_for_it(frozen: str, kept: int) -> None:
    modes = (Mode("in", 6, "in"), Mode("out", 10, "out"))
    starts = {"U": "normal", "V": "normal", "U" if frozen == "V" else "V": "zero"}
    (whole,) = cuts(TensorTrain(3).network(modes), ("in",), ("out",))
    (cut,) = cuts(Started(TensorTrain(3), starts, frozen=[frozen]).network(modes), ("in",), ("out",))
    spared = product(3, 5, 6 if frozen == "U" else 10)
    assert cut.training(5) + spared == dataclasses.replace(whole.training(5), kept=kept)
    again = Cost() if frozen == "U" else product(5, 6, 3)  # the narrow product, for the gradient of the up matrix
    for together in (False, True):
        assert cut.formed(5, together=together) + spared + again == whole.formed(5, together=together)


def test_a_blocked_cut_costs_what_a_count_by_hand_says() -> None:
    """LoRA of rank 2 on q and v of a fused weight: five tokens meet 6 x 4, and a half of the result 2 x 4, twice."""
    modes = (Mode("role", 2, "stack"), Mode("in", 6, "in"), Mode("out", 4, "out"))
    (cut,) = cuts(MatrixBatch(2).network(modes), ("in",), ("role", "out"))
    assert (cut.bond, cut.blocks, cut.over_inputs) == (4, ("role",), False)
    flops = 2 * 5 * 6 * 4 + 2 * (2 * 5 * 2 * 4)
    moved = (5 * 6 + 6 * 4 + 5 * 4) + 2 * (5 * 2 + 2 * 4 + 5 * 4)
    assert cut.forward(5) == Cost(flops, moved, 0, 3)
    moved += 2 * (5 * 4 + 4 * 2 + 5 * 2) + (5 * 4 + 4 * 6 + 5 * 6)  # to the input
    moved += (4 * 5 + 5 * 6 + 4 * 6) + 2 * (2 * 5 + 5 * 4 + 2 * 4)  # to the halves
    assert cut.training(5) == Cost(3 * flops, moved, 5 * 6 + 5 * 4, 9)


def test_blocks_over_inputs_cost_as_much_as_over_outputs_of_the_transposed_weight() -> None:
    modes = (Mode("role", 2, "stack"), Mode("in", 6, "in"), Mode("out", 4, "out"))
    (cut,) = cuts(MatrixBatch(2).network(modes), ("role", "in"), ("out",))
    assert (cut.bond, cut.blocks, cut.over_inputs) == (4, ("role",), True)
    flops = 2 * (2 * 5 * 6 * 2) + 2 * 5 * 4 * 4
    moved = 2 * (5 * 6 + 6 * 2 + 5 * 2) + (5 * 4 + 4 * 4 + 5 * 4)
    assert cut.forward(5) == Cost(flops, moved, 0, 3)
    assert cut.training(5).flops == 3 * flops
    assert cut.training(5).kept == 5 * 12 + 5 * 4  # both blocks of the input
    assert cut.training(5).launches == 9

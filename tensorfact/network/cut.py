"""Where a network can be cut in two, so that an input meets one narrow matrix and its result another."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from .cost import Cost, product
from .network import Core, Network

FEW = 8
"""Of up to so many cores every division into two halves is looked at; of more, those along the cores' order."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """Two halves of a network, inputs -> bond and bond -> outputs.

    A leg that both halves share and that stays open makes their matrices block-diagonal: one block on that side of
    the bond for each coordinate. LoRA on a fused q, k, v has one on the side of the outputs.

    Args:
        down: The half that meets the inputs; its output is (*blocks, *bond, *its own inputs).
        up: The half that gives the outputs; its output is (*blocks, *bond, *its own outputs).
        blocks: The open legs that both halves share; either all are inputs, or all are outputs.
        over_inputs: Whether they are inputs.
        bond: How many numbers pass between the halves for one token, blocks included.
    """

    down: Network
    up: Network
    blocks: tuple[str, ...]
    over_inputs: bool
    bond: int

    def forward(self, tokens: int) -> Cost:
        """Return what both products cost; the halves are formed by then.

        Args:
            tokens: How many tokens.
        """
        (down, bond_in, inputs), (up, bond_out, outputs) = self._blocks
        return down * product(tokens, inputs, bond_in) + up * product(tokens, bond_out, outputs, added=True)

    def training(self, tokens: int) -> Cost:
        """Return what both products and their gradients cost.

        Args:
            tokens: How many tokens.
        """
        (down, bond_in, inputs), (up, bond_out, outputs) = self._blocks
        to_input = up * product(tokens, outputs, bond_out) + down * product(tokens, bond_in, inputs, added=True)
        to_halves = down * product(bond_in, tokens, inputs) + up * product(bond_out, tokens, outputs)
        return self.forward(tokens) + to_input + to_halves + Cost(kept=tokens * (down * inputs + self.bond))

    @property
    def _blocks(self) -> list[tuple[int, int, int]]:
        """For the lower and the upper matrix: how many blocks, and the rows and columns of each."""
        found = []
        for half, blocked in ((self.down, self.over_inputs), (self.up, not self.over_inputs)):
            count = math.prod(half.shape(self.blocks)) if blocked else 1
            found.append((count, self.bond // count, math.prod(half.shape(half.output)) // self.bond))
        return found

    def __str__(self) -> str:
        return "x " + " ".join(f"({' '.join(core.name for core in half.cores)})" for half in (self.down, self.up))


def cuts(network: Network, inputs: Sequence[str], outputs: Sequence[str]) -> Iterator[Cut]:
    """Find every way to cut a network between its inputs and its outputs.

    Args:
        network: The network; its output legs are the inputs and the outputs.
        inputs: The legs that an input is contracted with.
        outputs: The legs of the result.

    Returns:
        The cuts; none for a network in which a core has inputs and outputs of its own, such as a Kronecker product.

    Examples:
        >>> from tensorfact.network import Core, Network
        >>> cores = (Core("U", ("in", "_1")), Core("S", ("_1", "_2")), Core("V", ("_2", "out")))
        >>> network = Network(cores, ("in", "out"), {"in": 64, "out": 64, "_1": 4, "_2": 8})
        >>> [(str(cut), cut.bond) for cut in cuts(network, ("in",), ("out",))]
        [('x (U) (S V)', 4), ('x (U S) (V)', 8)]
    """
    cores = network.cores
    for chosen in _divisions(len(cores)):
        down = [core for at, core in enumerate(cores) if at in chosen]
        up = [core for at, core in enumerate(cores) if at not in chosen]
        below, above = ({leg for core in half for leg in core.legs} for half in (down, up))
        if not (below.issuperset(inputs) and above.issuperset(outputs)):
            continue
        shared = [leg for leg in network.sizes if leg in below and leg in above]
        blocks = tuple(leg for leg in network.output if leg in shared)
        over_inputs = set(blocks) <= set(inputs)
        if not over_inputs and not set(blocks) <= set(outputs):
            continue
        bond = tuple(leg for leg in shared if leg not in blocks)
        yield Cut(
            _half(network, down, (*blocks, *bond, *(leg for leg in inputs if leg not in blocks))),
            _half(network, up, (*blocks, *bond, *(leg for leg in outputs if leg not in blocks))),
            blocks,
            over_inputs,
            math.prod(network.shape((*blocks, *bond))),
        )


def _divisions(count: int) -> Iterator[frozenset[int]]:
    """Return the cores of the lower half, for every division into two halves that are not empty."""
    everyone = range(count)
    if count <= FEW:
        for size in range(1, count):
            yield from map(frozenset, itertools.combinations(everyone, size))
    else:
        for size in range(1, count):
            yield frozenset(everyone[:size])
            yield frozenset(everyone[size:])


def _half(network: Network, cores: Sequence[Core], output: tuple[str, ...]) -> Network:
    legs = {leg for core in cores for leg in core.legs}
    return Network(tuple(cores), output, {leg: size for leg, size in network.sizes.items() if leg in legs})

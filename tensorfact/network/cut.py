"""Cut a network in two, so that an input is multiplied by one narrow matrix and the result by another."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from .cost import Cost, product
from .network import Network

FEW = 8
"""Up to this many cores, every division into two halves is tried; above it, only those along the order of the cores."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """Two halves of a network, inputs -> bond and bond -> outputs.

    An open leg shared by both halves makes the matrix on its side block-diagonal, with one block per coordinate. LoRA
    on a fused q, k, v has such a leg on the output side.

    Args:
        down: The half on the input side; its output is (*blocks, *bond, *its own inputs).
        up: The half on the output side; its output is (*blocks, *bond, *its own outputs).
        blocks: Open legs shared by both halves; either all are inputs, or all are outputs.
        over_inputs: Whether `blocks` are inputs.
        bond: Size of the bond between the halves per token, blocks included.
        trained: Whether the down and the up half have a core that trains.
    """

    down: Network
    up: Network
    blocks: tuple[str, ...]
    over_inputs: bool
    bond: int
    trained: tuple[bool, bool]

    def forward(self, tokens: int) -> Cost:
        """Return the cost of both products in a forward pass, without forming the two matrices.

        Args:
            tokens: Number of tokens.
        """
        (down, bond_in, inputs), (up, bond_out, outputs) = self._blocks
        return down * product(tokens, inputs, bond_in) + up * product(tokens, bond_out, outputs)

    def training(self, tokens: int) -> Cost:
        """Return the cost of both products and their gradients in a training step.

        The layer's input is kept if the down matrix trains, and the narrow product if the up matrix does.

        Args:
            tokens: Number of tokens.
        """
        (down, bond_in, inputs), _ = self._blocks
        to_input = down * product(tokens, bond_in, inputs)
        below, above = self.trained
        kept = Cost(kept=tokens * (below * down * inputs + above * self.bond))
        return self.forward(tokens) + self._gradients(tokens) + to_input + kept

    @property
    def forming(self) -> Cost:
        """Cost of forming the effective weight from the base weight, in a layer of its own: a copy, and a product."""
        (down, bond_in, inputs), (up, bond_out, outputs) = self._blocks
        blocks, size = down * up, down * inputs * up * outputs
        each = product(outputs, min(bond_in, bond_out), inputs)
        return Cost(blocks * each.flops + size, blocks * each.moved + 2 * size, launches=2)

    def formed(self, tokens: int, *, together: bool) -> Cost:
        """Return the cost of the effective weight in a training step, with the gradients of the two matrices.

        Args:
            tokens: Number of tokens.
            together: Whether those of all layers are formed at once, in two launches that are not counted here, and
                kept for the backward pass; otherwise each layer forms its own in its call, and again in the backward
                pass.
        """
        (down, bond_in, inputs), (up, _, outputs) = self._blocks
        once = dataclasses.replace(self.forming, launches=0, kept=down * inputs * up * outputs)
        below, above = self.trained
        again = above * down * product(tokens, inputs, bond_in) + Cost(kept=(below or above) * tokens * down * inputs)
        return (once if together else 2 * self.forming) + self._gradients(tokens) + again

    def _gradients(self, tokens: int) -> Cost:
        """Return the cost of the gradients of the narrow product and of the matrices that train."""
        (down, bond_in, inputs), (up, bond_out, outputs) = self._blocks
        below, above = self.trained
        to_halves = below * down * product(bond_in, tokens, inputs) + above * up * product(bond_out, tokens, outputs)
        return up * product(tokens, outputs, bond_out) + to_halves

    @property
    def _blocks(self) -> list[tuple[int, int, int]]:
        """For the down and the up matrix: the number of blocks, and the rows and columns of each."""
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
        network: The network; its open legs are `inputs` and `outputs` together.
        inputs: Legs that are contracted with a layer's input.
        outputs: Legs of the layer's output.

    Returns:
        The cuts; none if a core has inputs and outputs of its own, as in a Kronecker product.

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
            network.part(down, (*blocks, *bond, *(leg for leg in inputs if leg not in blocks))),
            network.part(up, (*blocks, *bond, *(leg for leg in outputs if leg not in blocks))),
            blocks,
            over_inputs,
            math.prod(network.shape((*blocks, *bond))),
            (any(core.trained for core in down), any(core.trained for core in up)),
        )


def _divisions(count: int) -> Iterator[frozenset[int]]:
    """Yield the positions of the cores in the down half, for every division into two nonempty halves."""
    everyone = range(count)
    if count <= FEW:
        for size in range(1, count):
            yield from map(frozenset, itertools.combinations(everyone, size))
    else:
        for size in range(1, count):
            yield frozenset(everyone[:size])
            yield frozenset(everyone[size:])

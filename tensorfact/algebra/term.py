"""A factored tensor, and what can be had of it without forming it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from ..network import Core, Network, dense_of, plan_contraction
from ..storage import AdapterState

_TWIN = "'"
"""What tells the second of two networks from the first where they are contracted with each other."""


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """A factored tensor times a number: one summand. A dense tensor is a network of one core.

    Args:
        network: The network; its output legs are the tensor's modes.
        cores: The cores by name.
        weight: What multiplies the tensor.
    """

    network: Network
    cores: Mapping[str, Tensor]
    weight: float = 1.0

    @classmethod
    def of(cls, dense: Tensor, modes: tuple[str, ...]) -> Term:
        """Return a dense tensor as a term.

        Args:
            dense: The tensor, one dimension a mode.
            modes: The modes' names.
        """
        sizes = dict(zip(modes, dense.shape, strict=True))
        return cls(Network((Core("T", modes),), modes, sizes), {"T": dense})

    def wide(self) -> Term:
        """Return this with cores in fp64, which products of many factors need."""
        return dataclasses.replace(self, cores={name: core.detach().double() for name, core in self.cores.items()})

    def dense(self) -> Tensor:
        """Return the tensor, one dimension a mode."""
        return dense_of(self.network, self.cores) * self.weight

    def holder(self, leg: str) -> Core | None:
        """Return the core that has a leg, if it is the only one."""
        holders = [core for core in self.network.cores if leg in core.legs]
        return holders[0] if len(holders) == 1 else None

    def unfolded(self, leg: str) -> Tensor:
        """Return the one core that has a leg as a matrix (leg, all its others).

        Args:
            leg: A leg with a holder.
        """
        core = self._held(leg)
        return self.cores[core.name].movedim(core.legs.index(leg), 0).reshape(self.network.sizes[leg], -1)

    def folded(self, leg: str, matrix: Tensor) -> Term:
        """Return this with the core that has a leg taken from a matrix, whose rows may be fewer: undoes `unfolded`.

        Args:
            leg: A leg with a holder.
            matrix: The core (leg, all its others).
        """
        core = self._held(leg)
        others = self.network.shape([other for other in core.legs if other != leg])
        value = matrix.reshape(-1, *others).movedim(0, core.legs.index(leg))
        sizes = {**self.network.sizes, leg: matrix.shape[0]}
        return Term(self._resized(sizes), {**self.cores, core.name: value}, self.weight)

    def at(self, place: Mapping[str, int]) -> Term:
        """Return the part at one coordinate of some legs, which keep size 1.

        Args:
            place: The coordinate of each of these legs.
        """
        cores = {}
        for core in self.network.cores:
            part = self.cores[core.name]
            for dim, leg in enumerate(core.legs):
                part = part.narrow(dim, place[leg], 1) if leg in place else part
            cores[core.name] = part
        sizes = {**self.network.sizes, **dict.fromkeys(place, 1)}
        return Term(self._resized(sizes), cores, self.weight)

    def inner(self, other: Term, mode: str) -> Tensor:
        """Return the product of two tensors, unfolded along a mode (mode of this, mode of the other).

        Args:
            other: A tensor with the same modes.
            mode: The mode that is not summed.
        """
        shared = set(self.network.output) - {mode}
        twins = tuple(
            Core(core.name + _TWIN, tuple(leg if leg in shared else leg + _TWIN for leg in core.legs))
            for core in other.network.cores
        )
        sizes = {**self.network.sizes, **{leg + _TWIN: size for leg, size in other.network.sizes.items()}}
        cores = (*self.network.cores, *twins)
        used = {leg for core in cores for leg in core.legs}
        pair = Network(cores, (mode, mode + _TWIN), {leg: sizes[leg] for leg in used})
        operands = [self.cores[core.name] for core in self.network.cores]
        operands += [other.cores[core.name] for core in other.network.cores]
        return plan_contraction(pair)(operands) * (self.weight * other.weight)

    @property
    def stored(self) -> int:
        """How many numbers the cores hold."""
        return sum(core.numel() for core in self.cores.values())

    def _held(self, leg: str) -> Core:
        core = self.holder(leg)
        assert core is not None
        return core

    def _resized(self, sizes: Mapping[str, int]) -> Network:
        return Network(self.network.cores, self.network.output, sizes)


def terms_of(state: AdapterState, tensor: str, weight: float = 1.0) -> list[Term]:
    """Return one tensor of an adapter, without its scale: its factors, less the start if that is subtracted.

    Args:
        state: The adapter.
        tensor: The tensor's name.
        weight: What multiplies it.
    """
    network, start = state.network(tensor), state.start(tensor)
    terms = [Term(network, state.cores(tensor), weight)]
    return [*terms, Term(network, start, -weight)] if start else terms


def gram(terms: list[Term], mode: str) -> Tensor:
    """Return the Gram matrix of a sum's unfolding along a mode (mode, mode), from inner products of the summands.

    Args:
        terms: The summands.
        mode: The mode.
    """
    size = terms[0].network.sizes[mode]
    total = terms[0].cores[next(iter(terms[0].cores))].new_zeros(size, size)
    for at, term in enumerate(terms):
        total += term.inner(term, mode)
        for other in terms[at + 1 :]:
            product = term.inner(other, mode)
            total += product + product.t()
    return total


def energy(terms: list[Term]) -> float:
    """Return the squared Frobenius norm of a sum, from inner products; known to 1e-16 of the summands' energies.

    Args:
        terms: The summands, in fp64.
    """
    mode = min(terms[0].network.output, key=lambda name: terms[0].network.sizes[name])
    return float(gram(terms, mode).trace())

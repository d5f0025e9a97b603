"""A factored tensor with operations that do not form the dense tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from ..network import Core, Network, dense_of, plan_contraction
from ..storage import AdapterState

_TWIN = "'"
"""Suffix for the names of the second of two networks that are contracted with each other."""


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """One summand: a factored tensor times a weight. A dense tensor is a network of one core.

    Args:
        network: The network; its output legs are the tensor's modes.
        cores: The cores by name.
        weight: Factor of the tensor.
    """

    network: Network
    cores: Mapping[str, Tensor]
    weight: float = 1.0

    @classmethod
    def of(cls, dense: Tensor, modes: tuple[str, ...]) -> Term:
        """Return a dense tensor as a term.

        Args:
            dense: The tensor, one dimension per mode.
            modes: The modes' names.
        """
        sizes = dict(zip(modes, dense.shape, strict=True))
        return cls(Network((Core("T", modes),), modes, sizes), {"T": dense})

    def wide(self) -> Term:
        """Return this term with its cores in fp64, for accurate products of many factors."""
        return dataclasses.replace(self, cores={name: core.detach().double() for name, core in self.cores.items()})

    def dense(self) -> Tensor:
        """Return the dense tensor, one dimension per mode."""
        return dense_of(self.network, self.cores) * self.weight

    def holder(self, leg: str) -> Core | None:
        """Return the only core with a leg, or None if there are several."""
        holders = [core for core in self.network.cores if leg in core.legs]
        return holders[0] if len(holders) == 1 else None

    def unfolded(self, leg: str) -> Tensor:
        """Return the only core with a leg as a matrix (leg, all other legs).

        Args:
            leg: A leg with a holder.
        """
        core = self._held(leg)
        return self.cores[core.name].movedim(core.legs.index(leg), 0).reshape(self.network.sizes[leg], -1)

    def folded(self, leg: str, matrix: Tensor) -> Term:
        """Replace the only core with a leg by a matrix, possibly with fewer rows: the inverse of `unfolded`.

        Args:
            leg: A leg with a holder.
            matrix: The core as a matrix (leg, all other legs).
        """
        core = self._held(leg)
        others = self.network.shape([other for other in core.legs if other != leg])
        value = matrix.reshape(-1, *others).movedim(0, core.legs.index(leg))
        sizes = {**self.network.sizes, leg: matrix.shape[0]}
        return Term(self._resized(sizes), {**self.cores, core.name: value}, self.weight)

    def at(self, place: Mapping[str, int]) -> Term:
        """Return the slice at one coordinate of some legs, which keep size 1.

        Args:
            place: The coordinate of each leg.
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
        """Return the matrix product of the unfoldings of two tensors (mode of this, mode of the other).

        Args:
            other: A term with the same modes.
            mode: The mode that is not contracted.
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
        """Number of elements of all cores."""
        return sum(core.numel() for core in self.cores.values())

    def _held(self, leg: str) -> Core:
        core = self.holder(leg)
        assert core is not None
        return core

    def _resized(self, sizes: Mapping[str, int]) -> Network:
        return Network(self.network.cores, self.network.output, sizes)


def terms_of(state: AdapterState, tensor: str, weight: float = 1.0) -> list[Term]:
    """Return the terms of one tensor of an adapter, without its scale: the factors, minus a subtracted start.

    Args:
        state: The adapter.
        tensor: The tensor's name.
        weight: Factor of the tensor.
    """
    network, start = state.network(tensor), state.start(tensor)
    terms = [Term(network, state.cores(tensor), weight)]
    return [*terms, Term(network, start, -weight)] if start else terms


def gram(terms: list[Term], mode: str) -> Tensor:
    """Return the Gram matrix (mode, mode) of the unfolding of a sum, from inner products of the summands.

    Args:
        terms: The summands.
        mode: The mode along which the sum is unfolded.
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
    """Return the squared Frobenius norm of a sum, accurate to 1e-16 of the energies of the summands.

    Args:
        terms: The summands, in fp64.
    """
    mode = min(terms[0].network.output, key=lambda name: terms[0].network.sizes[name])
    return float(gram(terms, mode).trace())

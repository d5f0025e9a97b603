"""The sum of factored tensors of one kind: cores side by side along the diagonal of their bonds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..formats.common import zero_core
from ..network import Network
from .term import Term


def direct_sum(terms: Sequence[Term]) -> Mapping[str, Tensor] | None:
    """Add factored tensors exactly; every bond of the sum is as long as those of the summands together.

    Args:
        terms: Summands whose networks differ in the sizes of bonds alone.

    Returns:
        The cores of the sum, by name; None where the bonds do not connect the cores, or a core is not trained, so that
        there is no such sum.

    Source: I. Oseledets, SIAM J. Sci. Comput. 2011, section 4.1, for tensor trains.
    """
    network = terms[0].network
    fixed = any(not core.trained for core in network.cores)
    if fixed or any(_form(term.network) != _form(network) for term in terms) or not _connected(network):
        return None
    weighted = zero_core(network).name
    result: dict[str, Tensor] = {}
    for core in network.cores:
        bonds = [leg not in network.output for leg in core.legs]
        values = [term.cores[core.name] * (term.weight if core.name == weighted else 1.0) for term in terms]
        shape = [sum(v.shape[d] for v in values) if bond else values[0].shape[d] for d, bond in enumerate(bonds)]
        total, offset = values[0].new_zeros(shape), [0] * len(bonds)
        for value in values:
            place = tuple(slice(at, at + size) for at, size in zip(offset, value.shape, strict=True))
            total[place] += value
            offset = [at + size * bond for at, size, bond in zip(offset, value.shape, bonds, strict=True)]
        result[core.name] = total
    return result


def _form(network: Network) -> object:
    return [(core.name, core.legs) for core in network.cores], network.output, network.shape(network.output)


def _connected(network: Network) -> bool:
    """Return whether one can go from any core to any other along bonds."""
    reached = {network.cores[0].name}
    for _ in network.cores:
        legs = {leg for c in network.cores if c.name in reached for leg in c.legs if leg not in network.output}
        reached |= {core.name for core in network.cores if legs & set(core.legs)}
    return len(reached) == len(network.cores)

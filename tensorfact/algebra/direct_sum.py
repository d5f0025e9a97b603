"""The exact sum of factored tensors of one format: block-diagonal cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..formats.common import zero_core
from ..network import Network
from .term import Term


def direct_sum(terms: Sequence[Term]) -> Mapping[str, Tensor] | None:
    """Add factored tensors exactly by block-diagonal cores; bond sizes add.

    Args:
        terms: Summands whose networks differ only in bond sizes.

    Returns:
        The cores of the sum by name, or None if it does not exist: the networks differ otherwise, bonds do not connect
        all cores, or a core is not trained.

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
    """Return whether the bonds connect all cores."""
    reached = {network.cores[0].name}
    for _ in network.cores:
        legs = {leg for c in network.cores if c.name in reached for leg in c.legs if leg not in network.output}
        reached |= {core.name for core in network.cores if legs & set(core.legs)}
    return len(reached) == len(network.cores)

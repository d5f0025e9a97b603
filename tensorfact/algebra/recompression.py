"""Find the factors of a sum of factored tensors in a format; conversion, rounding and addition all use this."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..formats import Decomposition, Format
from ..formats.base import idle
from ..formats.common import grown, zero_core
from ..formats.dense import check_tolerance, out_of_reach
from ..formats.search import capped, smallest
from ..network import Mode, Network
from .bases import Compressed, compress
from .term import Term, energy

Position = dict[str, int]

_NOISE = 1e-12
"""A sum smaller than this fraction of its summands is rounding error and counts as zero."""


def recompress(
    terms: Sequence[Term], modes: Sequence[Mode], format: Format, *, tolerance: float | None = None
) -> Decomposition:
    """Find the factors of a sum of factored tensors in a format, without forming the dense sum where possible.

    The sum is compressed to a small core in orthonormal bases of its modes, the core is decomposed by the format, and
    the bases are multiplied back. For tensor trains and Tucker the result is that of TT-SVD and HOSVD of the dense
    tensor. A mode that is a leg of all cores, such as the layers in LoRA, is handled coordinate by coordinate.

    Args:
        terms: The summands, on the same modes.
        modes: The modes of the tensor.
        format: The target format; its rank is the rank of the result, or with `tolerance` an upper bound.
        tolerance: The largest relative error in the Frobenius norm.

    Returns:
        The format with explicit ranks, the cores in fp64, and the measured relative error.

    Raises:
        RankError: The modes do not admit the rank, or the tolerance cannot be reached at the format's rank.
        FormatError: The format has no decomposition.

    Source: I. Oseledets 2011, algorithm 2, for tensor trains; Vannieuwenhoven et al., SIAM J. Sci. Comput. 2012.

    Examples:
        >>> import torch
        >>> from tensorfact.network import Mode
        >>> from tensorfact import TensorTrain, Tucker
        >>> modes = (Mode("layer", 6, "stack"), Mode("in", 40, "in"), Mode("out", 40, "out"))
        >>> network = TensorTrain(rank=2).network(modes)
        >>> cores = {name: torch.randn(shape) for name, shape in network.shapes().items()}
        >>> found = recompress([Term(network, cores)], modes, Tucker("full"), tolerance=1e-6)
        >>> found.format, found.error < 1e-6
        (Tucker(rank=(4, 2, 2)), True)
    """
    if tolerance is not None:
        tolerance = check_tolerance(tolerance)
    modes, format = tuple(modes), format.explicit(modes)
    target = format.network(modes)
    unchanged = len(terms) == 1 and terms[0].network == target
    if unchanged and tolerance is None:
        return Decomposition(format, modes, _weighted(terms[0]), 0.0)
    places, blocks = _compressed(terms, modes, target, tolerance or 0.0)
    if (
        len(terms) > 1 and sum(block.energy for block in blocks) <= (_NOISE * _magnitude(terms)) ** 2
    ):  # the terms cancel
        format = format if tolerance is None else capped(format, 1, modes)
        return Decomposition(format, modes, idle(format, modes, blocks[0].core), 0.0)
    solved = _solve(blocks, modes, format, tolerance)
    if tolerance is not None and not solved.error <= tolerance:
        if unchanged:  # least squares missed the solution that exists
            return Decomposition(format, modes, _weighted(terms[0]), 0.0)
        raise out_of_reach(format, tolerance, solved.error)
    network = solved.format.network(modes)
    parts = zip(places, blocks, solved.parts, strict=True)
    cores = _joined(network, ((place, _expanded(network, block, part)) for place, block, part in parts))
    return Decomposition(solved.format, modes, cores, solved.error)


def squared_errors(terms: Sequence[Term], modes: Sequence[Mode], format: Format) -> Callable[[Format], float]:
    """Return a function from a format to the squared Frobenius norm of the error of a sum of tensors in it.

    The sum is compressed once; each format is then tried on the small core.

    Args:
        terms: The summands, on the same modes.
        modes: The modes of the tensor.
        format: The format with the highest ranks that the function is called with.
    """
    modes = tuple(modes)
    _, blocks = _compressed(terms, modes, format.explicit(modes).network(modes), 0.0)
    whole = sum(block.energy for block in blocks)
    return lambda lower: _at_rank(blocks, modes, lower).error ** 2 * whole


def stored(
    terms: Sequence[Term], found: Decomposition, dtype: torch.dtype, tolerance: float | None = None
) -> Decomposition:
    """Round the cores of a result to the dtype in which they are stored, and measure the error again.

    Args:
        terms: The summands that were recompressed.
        found: The result, in fp64.
        dtype: The dtype to store; at least fp32 is used.
        tolerance: The largest relative error.

    Returns:
        The rounded result with its relative error, measured to about 1e-8.

    Raises:
        RankError: The rounded cores exceed the tolerance.
    """
    dtype = torch.promote_types(dtype, torch.float32)
    cores = {name: core.to(dtype) for name, core in found.cores.items()}
    if dtype == torch.float64:
        return found
    result = Term(found.network, cores, -1.0).wide()
    parts = [term.wide() for term in terms]
    whole = energy(parts)
    error = math.sqrt(max(energy([*parts, result]), 0.0) / whole) if whole > 0 else 0.0
    if tolerance is not None and error > tolerance:
        raise out_of_reach(found.format, tolerance, error)
    return dataclasses.replace(found, cores=cores, error=error)


def _compressed(
    terms: Sequence[Term], modes: Sequence[Mode], target: Network, tolerance: float
) -> tuple[list[Position], list[Compressed]]:
    """Compress a sum, for every coordinate of the modes that are legs of all cores of the target."""
    apart = _apart(target)
    reach = _largest_bases(target, [mode for mode in modes if mode.name not in apart])
    coordinates = itertools.product(*(range(target.sizes[mode]) for mode in apart))
    places = [dict(zip(apart, at, strict=True)) for at in coordinates]
    return places, [compress([term.at(place) for term in terms], reach, tolerance) for place in places]


def _largest_bases(target: Network, modes: Iterable[Mode]) -> dict[str, int]:
    """Return the largest useful basis size of each mode that belongs to only one core."""
    found = {}
    for mode in modes:
        core = Term(target, {}).holder(mode.name)
        if core is not None:
            others = target.shape([leg for leg in core.legs if leg != mode.name])
            found[mode.name] = min(mode.size, math.prod(others))
    return found


def _magnitude(terms: Sequence[Term]) -> float:
    """Return the sum of the summands' norms."""
    return sum(math.sqrt(max(energy([term.wide()]), 0.0)) for term in terms)


def _weighted(term: Term) -> dict[str, Tensor]:
    zero = zero_core(term.network).name
    return {name: core * (term.weight if name == zero else 1.0) for name, core in term.wide().cores.items()}


def _apart(network: Network) -> tuple[str, ...]:
    """Return the modes that are legs of all cores: the network is a separate one for each of their coordinates."""
    if len(network.cores) == 1:
        return ()
    return tuple(leg for leg in network.output if all(leg in core.legs for core in network.cores))


@dataclasses.dataclass(frozen=True, eq=False)
class _Solved:
    format: Format
    parts: list[Decomposition]
    error: float


def _solve(blocks: list[Compressed], modes: Sequence[Mode], format: Format, tolerance: float | None) -> _Solved:
    """Decompose the cores of all blocks at one rank: the format's, or the lowest that keeps the tolerance."""
    if tolerance is None:
        return _at_rank(blocks, modes, format)
    if len(blocks) > 1:
        return _at_rank(blocks, modes, smallest(format, modes, lambda f: _at_rank(blocks, modes, f).error <= tolerance))
    (block,) = blocks
    small, kept = _small(block, modes), block.energy - block.dropped
    left = tolerance**2 * block.energy - block.dropped
    fitted = format.fitted(small)
    if not 0 < left < kept:  # truncation spent the tolerance, or rank 1 is enough
        return _at_rank(blocks, modes, fitted if left <= 0 else capped(fitted, 1, small))
    scale = block.core.abs().max()
    return _at_rank(blocks, modes, fitted.within(block.core / scale, small, math.sqrt(left / kept)))


def _at_rank(blocks: list[Compressed], modes: Sequence[Mode], format: Format) -> _Solved:
    parts = []
    for block in blocks:
        small = _small(block, modes)
        parts.append(format.fitted(small).decompose(block.core, small))
    energy = sum(block.energy for block in blocks)
    lost = sum(
        block.dropped + part.error**2 * (block.energy - block.dropped)
        for block, part in zip(blocks, parts, strict=True)
    )
    return _Solved(format, parts, math.sqrt(lost / energy) if energy else 0.0)


def _small(block: Compressed, modes: Sequence[Mode]) -> tuple[Mode, ...]:
    return tuple(dataclasses.replace(mode, size=size) for mode, size in zip(modes, block.core.shape, strict=True))


def _expanded(network: Network, block: Compressed, part: Decomposition) -> dict[str, Tensor]:
    """Return the cores of a block, padded to the network's bonds and multiplied by the bases."""
    cores = {}
    for core in network.cores:
        value = part.cores[core.name]
        bonds = [
            size if leg in network.output else network.sizes[leg]
            for leg, size in zip(core.legs, value.shape, strict=True)
        ]
        value = grown(value, bonds)
        for dim, leg in enumerate(core.legs):
            if leg in block.bases:
                value = torch.tensordot(block.bases[leg], value, dims=([1], [dim])).movedim(0, dim)
        cores[core.name] = value
    return cores


def _joined(network: Network, blocks: Iterable[tuple[Position, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """Assemble the cores from those of all blocks."""
    cores: dict[str, Tensor] = {}
    for place, parts in blocks:
        if not place:
            return dict(parts)
        for core in network.cores:
            if core.name not in cores:
                cores[core.name] = parts[core.name].new_zeros(network.shape(core.legs))
            index = tuple(slice(place[leg], place[leg] + 1) if leg in place else slice(None) for leg in core.legs)
            cores[core.name][index] = parts[core.name]
    return cores

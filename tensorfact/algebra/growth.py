"""Change the ranks of an adapter: lower them by truncation, or raise them by directions that leave increments as are.

A raised rank adds an index to a bond. The new entries of the cores are chosen so that no product with a new index is
left in the increment, while one step of training reaches them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..common.checks import whole_number
from ..errors import AdaptError, FormatError
from ..formats import Decomposition, Format, FormatLike, format_label
from ..formats.common import zero_core
from ..formats.search import spelled_rank
from ..network import Core, Mode, Network
from ..network.initial import deviations
from ..plan.tensors import formats_of
from ..storage import AdapterState
from ..storage.state import AdapterSource, state_of
from .changes import Change, Recompression
from .conversion import finite_terms
from .recompression import recompress, stored
from .term import terms_of

Cores = Mapping[str, Tensor]


def grown_format(format: Format, modes: Sequence[Mode], by: float = 0.5) -> Format:
    """Return a format with every rank raised by a fraction of it, at least by 1 and at most to what the modes admit.

    Args:
        format: The format; one without a rank is returned unchanged.
        modes: The tensor's modes.
        by: The fraction.

    Examples:
        >>> from tensorfact import TensorTrain
        >>> from tensorfact.network import Mode
        >>> modes = (Mode("layer", 6, "stack"), Mode("in", 40, "in"), Mode("out", 40, "out"))
        >>> grown_format(TensorTrain(rank=(8, 1)), modes)
        TensorTrain(rank=(12, 2), order=None)
    """
    format = format.explicit(modes)
    if format.own_rank is None:
        return format
    rank = spelled_rank(format)
    if isinstance(rank, int):
        return format.with_rank(rank + max(1, int(by * rank))).fitted(modes)
    return format.with_rank(tuple(each + max(1, int(by * each)) for each in rank)).fitted(modes)


def resize_ranks(
    adapter: AdapterSource, formats: FormatLike | Mapping[str, FormatLike], *, seed: int = 0
) -> Recompression:
    """Give the tensors of an adapter other ranks: lower ranks by truncation, higher ones by new directions.

    Ranks that are raised leave the increment unchanged, but for an adapter with a subtracted start: its increment is a
    sum, whose ranks are those of both together, and is truncated to the new ones. Else the new entries of the core that
    starts at zero are zero, and those of the other cores are drawn at random, with the size of the present entries.
    Where this is not possible, as in formats with frozen cores, the tensor keeps its ranks.

    Args:
        adapter: An `Adapter`, an `AdapterState` or a file. It is not changed.
        formats: The present formats with other ranks: one for all tensors, or a dict from group or tensor names.
        seed: Seed of the new directions.

    Returns:
        The new adapter, and the measured relative error of each tensor.

    Raises:
        FormatError: A format is of another kind than the present one, or has no decomposition to lower its ranks.
        RankError: A tensor does not admit the rank.
        DataError: A core holds NaN or infinity.

    Source: the direct sum of I. Oseledets, SIAM J. Sci. Comput. 2011, section 4.1, with the zero tensor.

    Examples:
        >>> from tensorfact import TensorTrain, adapt, plan_for
        >>> from tensorfact.algebra import resize_ranks
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=4))
        >>> resize_ranks(adapter, TensorTrain(rank=6)).changes[0].format
        TensorTrain(rank=6, order=None)
    """
    state, seed = state_of(adapter), whole_number(seed, "resize_ranks: seed", AdaptError, least=0)
    given = formats_of(formats, state.names)
    generator = torch.Generator().manual_seed(seed)
    changes, chosen, cores = [], {}, {}
    for name in state.names:
        own, modes, before = state.description.formats[name], state.description.modes[name], state.cores(name)
        _check_kind(own, given[name], name)
        like = next(iter(before.values()))
        found = _resized(state, name, given[name].explicit(modes), generator)
        result = stored(terms_of(state, name), found, like.dtype) if found.error else found
        chosen[name] = result.format
        cores[name] = {core: value.to(like.device, like.dtype) for core, value in result.cores.items()}
        count = state.network(name).num_parameters
        changes.append(Change(name, format_label(own), count, result.format, result.num_parameters, result.error))
    return Recompression(state.replaced(chosen, cores), tuple(changes))


def _check_kind(own: Format, given: Format, tensor: str) -> None:
    if own == given or (
        own.own_rank is not None and given.own_rank is not None and own.with_rank(1) == given.with_rank(1)
    ):
        return
    raise FormatError(
        f"resize_ranks: the format of tensor {tensor!r}",
        expected=f"{own} with other ranks",
        got=str(given),
        fix="call adapter.convert(format) first",
    )


def _resized(state: AdapterState, name: str, format: Format, generator: torch.Generator) -> Decomposition:
    """Return the factors of one tensor at other ranks."""
    modes, cores = state.description.modes[name], state.cores(name)
    own, target = state.network(name), format.network(modes)
    terms = finite_terms(state, name)
    if len(terms) == 1 and own == target:
        return Decomposition(format, modes, cores, 0.0)
    if len(terms) == 1 and not bool(cores[zero_core(own).name].any()) and _alike(own, target):
        return Decomposition(format, modes, _redrawn(cores, target, format.given(modes), modes, generator), 0.0)
    lower = _lower(state.description.formats[name], format, modes, len(terms))
    found = Decomposition(lower, modes, cores, 0.0)
    if len(terms) > 1 or lower.network(modes) != own:
        found = recompress(terms, modes, lower)
    if lower.network(modes) == target:
        return found
    wider = widened(found.network, found.cores, target, modes, generator)
    return found if wider is None else Decomposition(format, modes, wider, found.error)


def _lower(own: Format, given: Format, modes: Sequence[Mode], terms: int) -> Format:
    """Return a format at the lower of two ranks for every bond: the given ones, and those of a sum of some terms."""
    ranks = [spelled_rank(format.explicit(modes)) for format in (own, given)]
    count = max((len(rank) for rank in ranks if isinstance(rank, tuple)), default=1)
    pair = [rank if isinstance(rank, tuple) else (rank,) * count for rank in ranks]
    least = tuple(min(terms * rank, most) for rank, most in zip(*pair, strict=True))
    return own if own.own_rank is None else own.with_rank(least if count > 1 else least[0])


def _alike(first: Network, second: Network) -> bool:
    """Return whether two networks differ only in the sizes of bonds."""

    def form(network: Network) -> object:
        return [(core.name, core.legs) for core in network.cores], network.output, network.shape(network.output)

    return form(first) == form(second)


def _drawn(shape: Sequence[int], size: float, like: Tensor, generator: torch.Generator) -> Tensor:
    value = torch.randn(tuple(shape), generator=generator, dtype=torch.float64, device="cpu") * size
    return value.to(like.device, like.dtype)


def _rms(core: Tensor) -> float:
    return float(core.detach().double().square().mean().sqrt())


def _redrawn(
    cores: Cores, target: Network, given: Cores, modes: Sequence[Mode], generator: torch.Generator
) -> dict[str, Tensor]:
    """Return cores of an increment of zero at other ranks: parts of the present entries, and new ones."""
    zero, usual, found = zero_core(target).name, deviations(target, modes), {}
    for name, shape in target.shapes().items():
        core = cores[name]
        if name in given:
            found[name] = given[name].to(core.device, core.dtype)
            continue
        value = torch.zeros(shape, dtype=core.dtype, device=core.device)
        if name != zero:
            value = _drawn(shape, _rms(core) or usual[name], core, generator)
            kept = tuple(slice(min(have, want)) for have, want in zip(core.shape, shape, strict=True))
            value[kept] = core[kept]
        found[name] = value
    return found


def widened(
    network: Network, cores: Cores, target: Network, modes: Sequence[Mode], generator: torch.Generator
) -> dict[str, Tensor] | None:
    """Return the cores of the same tensor with longer bonds, or None if a core that is not trained would change.

    The block of new entries, at which all growing bonds of a core have a new index, is drawn at random; in one core of
    those that growing bonds connect it is zero, as are the blocks in which only some of them have a new index. So every
    product with a new index has a factor of zero.

    Args:
        network: The present network.
        cores: Its cores.
        target: The network with longer bonds.
        modes: The tensor's modes.
        generator: A CPU generator.
    """
    if not _alike(network, target):
        return None
    growing = {leg for leg, size in network.sizes.items() if target.sizes[leg] > size}
    affected = [core for core in target.cores if growing & set(core.legs)]
    if not all(core.trained for core in affected):
        return None
    zeros = {_zero_of(part, zero_core(target)) for part in _connected(affected, growing)}
    usual, found = deviations(target, modes), dict(cores)
    for core in affected:
        before, shape = cores[core.name], target.shape(core.legs)
        value = torch.zeros(shape, dtype=before.dtype, device=before.device)
        value[tuple(slice(size) for size in before.shape)] = before
        if core.name not in zeros:
            sizes = zip(core.legs, before.shape, strict=True)
            block = tuple(slice(size if leg in growing else 0, None) for leg, size in sizes)
            value[block] = _drawn(value[block].shape, _rms(before) or usual[core.name], before, generator)
        found[core.name] = value
    return found


def _connected(cores: Sequence[Core], bonds: set[str]) -> Iterator[list[Core]]:
    """Yield the groups of cores that some bonds connect."""
    left = list(cores)
    while left:
        part, legs = [], set(left[0].legs) & bonds
        while reached := [core for core in left if legs & set(core.legs)]:
            part += reached
            left = [core for core in left if core not in reached]
            legs |= {leg for core in reached for leg in core.legs} & bonds
        yield part


def _zero_of(part: Sequence[Core], zero: Core) -> str:
    """Return the core of a group whose new entries are zero: that which starts at zero, or else the last."""
    names = [core.name for core in part]
    return zero.name if zero.name in names else names[-1]

"""Convert adapters to another format, round them to lower ranks, and add them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast, get_args

from torch import Tensor

from ..common.checks import callback, finite_number, flag, one_of, whole_number
from ..common.progress import Progress, silent
from ..errors import AdaptError, DataError, FingerprintError, FormatError, PlanError, RankError
from ..formats import Decomposition, Format, FormatLike, format_label
from ..formats.rank import FULL, Rank, checked_rank
from ..formats.search import capped, spelled_rank
from ..network import Mode
from ..plan.tensors import formats_of
from ..storage import AdapterState
from ..storage.description import sizes_of
from ..storage.state import AdapterSource, state_of
from .allocation import Spread, by_energy, even_split
from .changes import Change, Recompression
from .direct_sum import direct_sum
from .recompression import recompress, stored
from .term import Term, terms_of

Found = Callable[[str, Sequence[Term]], Decomposition]

_EXACT = 1e-9
"""A sum with a relative error below this counts as exact."""
_FITTED = 1e-6
"""The same bound for sums found by least squares, which resolve errors of about 1e-7."""


def convert(
    adapter: AdapterSource,
    format: FormatLike | Mapping[str, FormatLike],
    *,
    tolerance: float | None = None,
    progress: Progress = silent,
) -> Recompression:
    """Convert an adapter to another format, without forming the dense increments where possible.

    Args:
        adapter: An `Adapter`, an `AdapterState` or a file. It is not changed.
        format: One format for all tensors, or a dict from group names to formats.
        tolerance: The largest relative error of each tensor. The lowest ranks that keep it are used, none above the
            format's own; rank 'full' sets no upper bound.
        progress: Called after each tensor.

    Returns:
        The new adapter, and the measured relative error of each tensor.

    Raises:
        RankError: A tensor does not admit the rank, or the tolerance cannot be reached at the format's rank.
        FormatError: A group has no format, or a format has no decomposition.

    Examples:
        >>> from tensorfact import TensorTrain, Tucker, adapt, convert, plan_for
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=4))
        >>> convert(adapter, Tucker(rank=4)).changes[0].format
        Tucker(rank=4)
    """
    state = state_of(adapter)
    formats = formats_of(format, state.names)

    def found(name: str, terms: Sequence[Term]) -> Decomposition:
        return recompress(terms, state.description.modes[name], formats[name], tolerance=tolerance)

    return _reworked(state, [(state, 1.0)], found, "converting", progress, tolerance)


def round_ranks(
    adapter: AdapterSource,
    *,
    rank: Rank | None = None,
    tolerance: float | None = None,
    budget: int | None = None,
    spread: Spread = "even",
    progress: Progress = silent,
) -> Recompression:
    """Lower the ranks of an adapter; no rank is raised. Pass exactly one of `rank`, `tolerance` and `budget`.

    Args:
        adapter: An `Adapter`, an `AdapterState` or a file. It is not changed.
        rank: The new rank: one for all bonds, one per bond, or a fraction of the dense size.
        tolerance: The largest relative error of each tensor; the lowest ranks that keep it are used.
        budget: The largest number of parameters of all tensors together.
        spread: How the budget is spread. `"even"`: the highest rank within it, one for all bonds of all tensors.
            `"energy"`: one rank for each bond of each tensor, chosen by a greedy search for the smallest change of the
            increments.
        progress: Called after each tensor.

    Returns:
        The new adapter, and the measured relative error of each tensor.

    Raises:
        RankError: Not exactly one of `rank`, `tolerance` and `budget` was given, it cannot be met, or `spread` is
            unknown or given without a budget.
        FormatError: A format has no rank, or no decomposition.

    Source: I. Oseledets, SIAM J. Sci. Comput. 2011, algorithm 2; De Lathauwer et al., SIAM J. Matrix Anal. Appl. 2000.

    Examples:
        >>> from tensorfact import TensorTrain, adapt, plan_for, round_ranks
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=8))
        >>> round_ranks(adapter, budget=2000).changes[0].format
        TensorTrain(rank=4, order=None)
    """
    state = state_of(adapter)
    given = {"rank": rank, "tolerance": tolerance, "budget": budget}
    if [value is None for value in given.values()].count(False) != 1:
        raise RankError(
            "round_ranks",
            expected="exactly one of rank, tolerance and budget",
            got=" and ".join(name for name, value in given.items() if value is not None) or "none",
            fix="round_ranks(adapter, rank=4)",
        )
    if rank is not None:
        rank = checked_rank(rank, "round_ranks")
    if budget is not None:
        budget = whole_number(budget, "round_ranks: budget", RankError, example=20000)
    lower = {} if rank is None else _ranked(state, rank)
    spread = cast("Spread", one_of(spread, get_args(Spread), "round_ranks: spread", RankError))
    if spread != "even" and budget is None:
        raise RankError(f"round_ranks: spread={spread!r} needs a budget", fix=f"budget=20000, spread={spread!r}")
    lower |= {} if budget is None else _within(state, budget, spread)

    def found(name: str, terms: Sequence[Term]) -> Decomposition:
        modes, own = state.description.modes[name], state.description.formats[name]
        return recompress(terms, modes, lower.get(name, own), tolerance=tolerance)

    return _reworked(state, [(state, 1.0)], found, "rounding", progress, tolerance)


def combine(
    adapters: Mapping[AdapterSource, float],
    *,
    format: FormatLike | Mapping[str, FormatLike] | None = None,
    rank: Rank | None = None,
    tolerance: float | None = None,
    keep_head: bool = True,
    check_base: bool = True,
    progress: Progress = silent,
) -> Recompression:
    """Return the weighted sum of adapters that share a plan.

    The sum of the increments, scales included, is exact: ranks add. Some formats, such as a Kronecker product, cannot
    represent the sum at any rank; pass another `format` then. With `rank` or `tolerance` the sum is rounded.

    Args:
        adapters: The weight of every adapter. A key is an `Adapter`, an `AdapterState` or a file.
        format: The format of the sum; by default that of the first adapter, with the sum of the ranks.
        rank: The rank of the sum, as in `round_ranks`.
        tolerance: The largest relative error of each tensor.
        keep_head: Keep the head of the first adapter; otherwise the sum has no head.
        check_base: Raise if the adapters have different base models.
        progress: Called after each tensor.

    Returns:
        The sum, with the first adapter's scale, and the measured relative error of each tensor.

    Raises:
        AdaptError: There is no adapter, a weight is not a finite number, or a flag is not a bool.
        PlanError: The adapters have different plans, or tensors of different sizes.
        FingerprintError: The adapters have different base models.
        RankError: A tensor does not admit the rank, or the tolerance cannot be reached.
        FormatError: The format cannot represent the sum.

    Examples:
        >>> from tensorfact import TensorTrain, adapt, combine, plan_for
        >>> from tensorfact.lab import nano
        >>> first, second = (nano() for _ in range(2))
        >>> cats = adapt(first, plan_for(first), TensorTrain(rank=4))
        >>> dogs = adapt(second, plan_for(second), TensorTrain(rank=2))
        >>> combine({cats: 0.5, dogs: 0.5}).changes[0].format
        TensorTrain(rank=6, order=None)
    """
    if not isinstance(adapters, Mapping) or not adapters:
        got = "none" if isinstance(adapters, Mapping) else type(adapters).__name__
        raise AdaptError("combine: adapters", expected="weights by adapter", got=got, fix="{first: 0.5, second: 0.5}")
    flag(keep_head, "combine: keep_head", AdaptError)
    flag(check_base, "combine: check_base", AdaptError)
    weights = [finite_number(weight, "combine: weight", AdaptError, example=0.5) for weight in adapters.values()]
    states = [(state_of(adapter), weight) for adapter, weight in zip(adapters, weights, strict=True)]
    first = states[0][0]
    for other, _ in states[1:]:
        _check_alike(first, other, check_base=check_base)
    if zero := [name for name, scale in first.description.scales.items() if not scale]:
        raise AdaptError(f"combine: the first adapter's scale of {zero[0]!r} is 0", fix="pass another adapter first")
    formats = formats_of(first.description.formats if format is None else format, first.names)
    if rank is not None or (format is None and tolerance is not None):
        formats = {name: at_rank(each, FULL if rank is None else rank, name) for name, each in formats.items()}
    modes = first.description.modes

    def found(name: str, terms: Sequence[Term]) -> Decomposition:
        if format is None and rank is None and tolerance is None:
            return _added(terms, [state.description.formats[name] for state, _ in states], modes[name])
        return recompress(terms, modes[name], formats[name], tolerance=tolerance)

    return _reworked(first, states, found, "combining", progress, tolerance, None if keep_head else {})


def _added(terms: Sequence[Term], formats: Sequence[Format], modes: Sequence[Mode]) -> Decomposition:
    """Add factored tensors of one format: ranks add up to what the modes admit, then 'full' if that is not exact."""
    kinds = {type(format).__name__ for format in formats}
    if len(kinds) > 1:
        raise FormatError(
            "combine: adapters of different formats",
            got=", ".join(sorted(kinds)),
            fix="pass the format of the sum: format='tt:rank=full', tolerance=0.01",
        )
    if len(terms) == 1:
        return recompress(terms, modes, formats[0])
    if formats[0].own_rank is None:
        raise FormatError(
            f"combine: {formats[0]} has no rank to increase",
            fix="pass the format of the sum: format='matrix-batch:rank=full'",
        )
    total = tuple(map(sum, zip(*_alike([format.explicit(modes) for format in formats]), strict=True)))
    format = at_rank(formats[0], _least(total), "").fitted(modes)
    cores = direct_sum(terms)
    if cores is not None and {n: tuple(c.shape) for n, c in cores.items()} == format.network(modes).shapes():
        return Decomposition(format, tuple(modes), cores, 0.0)
    for wider in (format, at_rank(format, FULL, "")):
        found = recompress(terms, modes, wider)
        if found.error < _EXACT:
            return found
    if found.error < _FITTED:
        return found
    raise FormatError(
        f"combine: {formats[0]} cannot represent the sum exactly",
        expected=f"a relative error below {_FITTED:g}",
        got=f"{found.error:.2g} at rank 'full'",
        fix="pass the format of the sum: format='matrix-batch:rank=full'",
    )


def _ranked(state: AdapterState, rank: Rank) -> dict[str, Format]:
    """Return the format of every tensor at a new rank, none above its own."""
    formats: dict[str, Format] = {}
    for name, format in state.description.formats.items():
        modes = state.description.modes[name]
        given = at_rank(format, rank, name)
        if isinstance(rank, int):
            formats[name] = capped(format, rank, modes)
            continue
        lower = tuple(map(min, *_alike([each.explicit(modes) for each in (given, format)])))
        formats[name] = at_rank(format, _least(lower), name)
        formats[name].network(modes)  # raises if the number of ranks is wrong
    return formats


def _alike(formats: Sequence[Format]) -> list[tuple[int, ...]]:
    """Return the explicit ranks of formats of one kind as tuples of equal length."""
    ranks = [spelled_rank(format) for format in formats]
    count = max((len(rank) for rank in ranks if isinstance(rank, tuple)), default=1)
    return [rank if isinstance(rank, tuple) else (rank,) * count for rank in ranks]


def _least(ranks: tuple[int, ...]) -> Rank:
    """Return a tuple of one rank as an int, others unchanged."""
    return ranks if len(ranks) > 1 else ranks[0]


def _within(state: AdapterState, budget: int, spread: Spread) -> dict[str, Format]:
    """Return the format of every tensor within a parameter budget."""
    if spread == "energy":
        for name in state.names:
            finite_terms(state, name)
        return by_energy(state, budget)
    return even_split(state.description.formats, state.description.modes, budget)


def at_rank(format: Format, rank: Rank, tensor: str) -> Format:
    """Return a format with another rank.

    Args:
        format: The format.
        rank: The new rank.
        tensor: The name of its tensor, for the message.

    Raises:
        FormatError: The format has no rank.
    """
    if format.own_rank is None:
        raise FormatError(
            f"{format} of tensor {tensor!r} has no rank", fix="convert it to another format: TensorTrain('full')"
        )
    return format.with_rank(rank)


def _check_alike(first: AdapterState, other: AdapterState, *, check_base: bool) -> None:
    if first.description.plan != other.description.plan or first.description.modes != other.description.modes:
        raise PlanError(
            "combine: adapters of different plans",
            expected=" and ".join(map(sizes_of, first.description.modes.values())),
            got=" and ".join(map(sizes_of, other.description.modes.values())),
            cause="different rules, different blocks, or models of different size",
            fix="create the adapters with the same plan; convert() changes the format only",
        )
    mine, theirs = first.description.fingerprint, other.description.fingerprint
    same = first.description.head.keys() == other.description.head.keys()  # else the others are not the same ones
    if check_base and (differing := mine.difference(theirs, others=same)):
        raise FingerprintError(
            f"combine: adapters of different base models: {differing} differ",
            expected=f"base fingerprint {mine}",
            got=str(theirs),
            fix="use one base model, or pass check_base=False",
        )


def _reworked(
    first: AdapterState,
    states: Sequence[tuple[AdapterState, float]],
    found: Found,
    task: str,
    progress: Progress,
    tolerance: float | None,
    head: Mapping[str, Tensor] | None = None,
) -> Recompression:
    """Replace the factors of every tensor by those found for the weighted sum, on the same device."""
    callback(progress, "progress", AdaptError)
    changes, formats, cores = [], {}, {}
    for done, name in enumerate(first.names, 1):
        own = first.description.scales[name]
        terms = []
        for state, weight in states:
            relative = weight if state is first else weight * state.description.scales[name] / own
            terms += finite_terms(state, name, relative)
        before = first.cores(name)
        like = next(iter(before.values()))
        result = stored(terms, found(name, terms), like.dtype, tolerance)
        formats[name] = result.format
        cores[name] = {core: value.to(like.device) for core, value in result.cores.items()}
        numbers, label = first.network(name).num_parameters, format_label(first.description.formats[name])
        changes.append(Change(name, label, numbers, result.format, result.num_parameters, result.error))
        progress(task, done, len(first.names))
    return Recompression(first.replaced(formats, cores, head), tuple(changes))


def finite_terms(state: AdapterState, name: str, weight: float = 1.0) -> list[Term]:
    """Return the terms of one tensor of an adapter, as `terms_of` does.

    Args:
        state: The adapter.
        name: The tensor's name.
        weight: Factor of the tensor.

    Raises:
        DataError: A core holds NaN or infinity.
    """
    terms = terms_of(state, name, weight)
    for term in terms:
        for core, value in term.cores.items():
            if not bool(value.isfinite().all()):
                raise DataError(
                    f"core {core!r} of tensor {name!r} holds NaN or infinity",
                    cause="diverged training",
                    fix="use an adapter from before training diverged",
                )
    return terms

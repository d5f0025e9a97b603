"""Bring the tensors of several adapters together: some cores in common, the others for each adapter."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from ..common.checks import AnyPath, file_path
from ..errors import AdaptError, naming
from ..formats import Format
from ..network import Mode, Network
from ..storage import AdapterState
from ..storage.bank_folder import BankFolder, new_identity, require_one_base
from ..storage.bank_rows import common_scales, flat, frozen_cores, rows_of
from .allocation import even_split
from .recompression import recompress
from .term import Term, terms_of


@dataclasses.dataclass(frozen=True)
class JoinedTensor:
    """One tensor of several adapters.

    Args:
        format: The format of one adapter's tensor, with explicit ranks.
        cores: The cores by name; those that are each adapter's own have the adapters in front.
        errors: The relative error of each adapter's increment in the Frobenius norm.
    """

    format: Format
    cores: Mapping[str, Tensor]
    errors: tuple[float, ...]


def join(
    states: Sequence[AdapterState],
    shared: Collection[str],
    *,
    tolerance: float | None = None,
    budget: int | None = None,
) -> dict[str, JoinedTensor]:
    """Find cores for several adapters, of which some are shared, by the sum of the adapters along a longer stack mode.

    The tensors of all adapters are put one after the other along the mode of the layers. The sum of these is
    recompressed: its cores without this mode are shared, and those with it hold a part for every adapter.

    Args:
        states: The adapters, on the same modes.
        shared: Names of the shared cores: all but those that hold the mode of the layers.
        tolerance: The largest relative error of each tensor of all adapters together.
        budget: The largest number of parameters of all adapters; default: the ranks of the first adapter.

    Returns:
        The result for every tensor, by its name. Scales are part of the cores.

    Raises:
        AdaptError: The adapters have other modes, or other cores can be shared.
        RankError: The tolerance cannot be reached, or rank 1 exceeds the budget.

    Source: the direct sum of I. Oseledets, SIAM J. Sci. Comput. 2011; one basis for many LoRAs: R. Gabrielsson et al.,
        Compress then Serve, ICML 2025.
    """
    first, names = states[0], states[0].names
    modes = {name: _longer(states, name) for name in names}
    formats = {name: first.description.formats[name] for name in names}
    if tolerance is not None or budget is not None:
        formats = {name: format.with_rank("full") for name, format in formats.items()}
    for name, format in formats.items():
        _require_shared(format.explicit(modes[name]).network(modes[name]), _stack(modes[name]), shared, name)
    if budget is not None:
        formats = even_split({n: f.explicit(modes[n]) for n, f in formats.items()}, modes, budget)
    return {name: _joined(states, name, modes[name], formats[name], tolerance) for name in names}


def write_bank(
    folder: AnyPath,
    states: Mapping[str, AdapterState],
    shared: Collection[str] = (),
    *,
    tolerance: float | None = None,
    budget: int | None = None,
) -> dict[str, dict[str, float]]:
    """Write adapters as a bank to a folder, exactly or with cores in common, without a model.

    Args:
        folder: The folder, which `open_bank` opens.
        states: The adapters by the names of the tasks.
        shared: As in `join`; none for an exact bank.
        tolerance: As in `join`.
        budget: As in `join`.

    Returns:
        The relative error of every task, by tensor.

    Raises:
        AdaptError: The adapters have different plans, formats or heads, or these cores cannot be shared.
        FingerprintError: They were made for different base models.
        RankError: As in `join`.
        CheckpointError: A file cannot be written.
    """
    path, several = file_path(folder, "write_bank: folder", AdaptError), list(states.values())
    first = several[0].description
    require_one_base([state.description for state in several], [f"task {name!r}" for name in states])
    joins = bool(shared) or tolerance is not None or budget is not None
    joined = join(several, shared, tolerance=tolerance, budget=budget) if joins else {}
    formats = {name: each.format for name, each in joined.items()} or dict(first.formats)
    scales = dict.fromkeys(formats, 1.0) if joins else common_scales(several)
    frozen = {} if joins else frozen_cores(several[0])
    description = dataclasses.replace(first, formats=formats, scales=scales, head={}, seed=None)
    rows = {}
    for task, state in states.items():
        with naming(f"task {task!r}"):
            rows[task] = rows_of(state, description, frozen, tuple(first.head), cores=not joins)
    common = {f"{n}.{c}": value.float() for n, each in joined.items() for c, value in each.cores.items() if c in shared}
    common |= frozen
    made = BankFolder(path, description, tuple(shared), tuple(first.head), common, new_identity())
    own = {f"{n}.{c}": v.float() for n, each in joined.items() for c, v in each.cores.items() if c not in shared}
    made.write(
        (task, {name: value[at] for name, value in own.items()} if joins else flat(row), head)
        for at, (task, (row, head)) in enumerate(rows.items())
    )
    return {name: dict(zip(states, each.errors, strict=True)) for name, each in joined.items()}


def _joined(
    states: Sequence[AdapterState], name: str, modes: Sequence[Mode], format: Format, tolerance: float | None
) -> JoinedTensor:
    stack, count = _stack(modes), len(states)
    own = [[term.wide() for term in terms_of(state, name, state.description.scales[name])] for state in states]
    placed = [_placed(term, stack, at, count) for at, terms in enumerate(own) for term in terms]
    found = recompress(placed, modes, format, tolerance=tolerance)
    cores = {}
    for core in found.network.cores:
        value = found.cores[core.name]
        if stack in core.legs:
            dim = core.legs.index(stack)
            shape = (*value.shape[:dim], count, -1, *value.shape[dim + 1 :])
            value = value.reshape(shape).movedim(dim, 0)
        cores[core.name] = value.contiguous()
    one = states[0].description.modes[name]
    network = found.format.network(one)
    errors = tuple(_error(network, cores, terms, stack, at) for at, terms in enumerate(own))
    return JoinedTensor(found.format, cores, errors)


def _error(network: Network, cores: Mapping[str, Tensor], terms: Sequence[Term], stack: str, at: int) -> float:
    """Return the relative error of one adapter; coordinate by coordinate of the layers, which takes little memory."""
    mine = {core.name: cores[core.name][at] if stack in core.legs else cores[core.name] for core in network.cores}
    wrong = size = 0.0
    for place in range(network.sizes[stack]):
        exact = sum(term.at({stack: place}).dense() for term in terms)
        wrong += float((Term(network, mine).at({stack: place}).dense() - exact).square().sum())
        size += float(torch.as_tensor(exact).square().sum())
    return math.sqrt(wrong / size) if size else math.sqrt(wrong)


def _placed(term: Term, stack: str, at: int, count: int) -> Term:
    """Return a term on a longer stack mode: its part, and zeros elsewhere."""
    size, cores = term.network.sizes[stack], {}
    for core in term.network.cores:
        value = term.cores[core.name]
        if stack in core.legs:
            dim = core.legs.index(stack)
            whole = value.new_zeros([*value.shape[:dim], count * size, *value.shape[dim + 1 :]])
            whole.narrow(dim, at * size, size).copy_(value)
            value = whole
        cores[core.name] = value
    sizes = {**term.network.sizes, stack: count * size}
    return Term(Network(term.network.cores, term.network.output, sizes), cores, term.weight)


def _longer(states: Sequence[AdapterState], name: str) -> tuple[Mode, ...]:
    modes = states[0].description.modes[name]
    for state in states:
        if state.description.modes.get(name) != modes:
            raise AdaptError(
                f"join: the adapters have other modes of tensor {name!r}",
                expected=str(modes),
                got=str(state.description.modes.get(name)),
                fix="adapt the models with one plan",
            )
    stack = _stack(modes)
    return tuple(
        dataclasses.replace(mode, size=mode.size * len(states)) if mode.name == stack else mode for mode in modes
    )


def _stack(modes: Sequence[Mode]) -> str:
    found = [mode.name for mode in modes if mode.side == "stack"]
    if len(found) != 1:
        raise AdaptError(
            "join: a tensor with one mode over layers is needed",
            got=f"modes {[mode.name for mode in modes]}",
            fix="a plan with modes='(layer role) in out', as plan_for makes it",
        )
    return found[0]


def _require_shared(network: Network, stack: str, shared: Collection[str], tensor: str) -> None:
    possible = [core.name for core in network.cores if core.trained and stack not in core.legs]
    if set(shared) != set(possible):
        raise AdaptError(
            f"join: the cores of tensor {tensor!r} that can be shared",
            expected=f"shared={possible}, those without the mode {stack!r}",
            got=f"shared={list(shared)}",
            fix=f"shared={possible}" if possible else "leave out shared, so that every task has all cores for itself",
        )

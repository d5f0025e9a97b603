"""The cores of the tasks of a mixed batch, gathered once in a pass for all layers."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ...plan.slices import Picks, taken
from ..increments.cache import Formed
from ..increments.forming import apart
from ..increments.passes import Passes
from ..increments.planned import Kind
from .factors import TaskFactors


def gathered_for_samples(kinds: Sequence[Kind], factors: TaskFactors, passes: Passes) -> Formed:
    """Return what gathers the slices of the cores that parameters use, those of owned cores once for each sample.

    Its sources are the stored cores, and the positions of the samples' tasks.

    Args:
        kinds: The contraction plans of the parameters.
        factors: The factors of the parameters' tensor.
        passes: Forward passes of the model.
    """
    owned = tuple(core.name in factors.owned for core in factors.applied.cores)
    stacked = [[bool(own) for own in kind.picks[0]] for kind in kinds]
    return Formed(passes, functools.partial(_together, kinds, owned), functools.partial(_alone, kinds, owned), stacked)


def behind_tasks(own: Picks) -> Picks:
    """Return the slice of a core (task, ...) for the slice of one task's core.

    Args:
        own: The slice of one task's core.
    """
    return tuple((dim + 1, index) for dim, index in own)


def _together(kinds: Sequence[Kind], owned: Sequence[bool], sources: Sequence[Tensor]) -> list[Tensor]:
    """Return the slices of all parameters (parameters, ...); that of a core which those of a kind take whole, once."""
    *cores, rows = sources
    each = [core.index_select(0, rows) if own else core for core, own in zip(cores, owned, strict=True)]
    whole = []
    for kind in kinds:
        parts = zip(*(_slices(kind, owned, at, each) for at in range(len(kind.views))), strict=True)
        whole += [torch.stack(own) if picks else own[0] for own, picks in zip(parts, kind.picks[0], strict=True)]
    return apart(whole, cores)


def _alone(
    kinds: Sequence[Kind], owned: Sequence[bool], which: int, at: int, sources: Sequence[Tensor]
) -> list[Tensor]:
    """Return the slices of one parameter."""
    *cores, rows = sources
    parts = _slices(kinds[which], owned, at, cores)
    found = [part.index_select(0, rows) if own else part for part, own in zip(parts, owned, strict=True)]
    return apart(found, cores)


def _slices(kind: Kind, owned: Sequence[bool], at: int, cores: Sequence[Tensor]) -> list[Tensor]:
    found = []
    for core, own, picks, shape in zip(cores, owned, kind.picks[at], kind.shapes, strict=True):
        part = taken(core, behind_tasks(picks) if own else picks)
        found.append(part.reshape((len(core), *shape) if own else shape))
    return found

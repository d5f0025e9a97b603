"""An adapter as the row of a bank: its cores and head, once it is known to fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...errors import AdaptError
from ...plan import TensorizationPlan
from ...storage import AdapterState
from ...storage.description import HEAD
from ..links import Links
from .factors import TaskFactors

Rows = dict[str, dict[str, Tensor]]
"""The owned cores of a task, by tensor name and by core."""


def rows_of(
    state: AdapterState,
    plan: TensorizationPlan,
    links: Links,
    factors: Mapping[str, TaskFactors],
    head: Sequence[str],
    *,
    cores: bool = True,
) -> tuple[Rows, dict[str, Tensor]]:
    """Return the owned cores of an adapter, at the scale of a bank, and its head.

    Args:
        state: The adapter.
        plan: The plan of the bank.
        links: The bank's links.
        factors: The bank's factors by tensor name.
        head: Names of the parameters of the head.
        cores: Whether the cores are needed, and their formats are those of the bank.

    Raises:
        AdaptError: It has another plan, other formats, shared cores or a head of other parameters.
        FingerprintError: It was made for another base model.
    """
    description = state.description
    for part, expected, got in (
        ("plan", plan, description.plan),
        ("formats", links.formats, dict(description.formats) if cores else links.formats),
        ("head", sorted(head), sorted(description.head)),
        ("subtract_start", False, description.subtracts_start),
    ):
        if expected != got:
            raise AdaptError(
                f"add: the adapter has another {part} than the bank",
                expected=str(expected)[:300],
                got=str(got)[:300],
                fix="adapt a model with the bank's plan and format, or convert the adapter",
            )
    rows: Rows = {}
    for name, each in factors.items() if cores else ():
        own = state.cores(name)
        for core, value in each.named_cores().items():
            if core not in each.owned and not torch.equal(value.detach().cpu(), own[core].to(value.dtype).cpu()):
                raise AdaptError(
                    f"add: the core {core!r} of tensor {name!r}, which the tasks share, is another one",
                    fix="tensorfact.bank(model, adapters, shared=[...], tolerance=0.1), which brings them together",
                )
        rows[name] = {core: own[core] for core in each.owned}
        ratio = description.scales[name] / links.scales[name] if links.scales[name] else 0.0
        if ratio != 1:
            rows[name][each.owned[-1]] = rows[name][each.owned[-1]] * ratio
    return rows, {name: state.tensors[HEAD + name] for name in head}

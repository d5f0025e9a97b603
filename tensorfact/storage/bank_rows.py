"""An adapter as a task of a bank: its own cores and its head, once it is known to fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..errors import AdaptError
from ..formats import Format
from ..plan import TensorizationPlan
from .description import HEAD
from .state import AdapterState

Rows = dict[str, dict[str, Tensor]]
"""The own cores of a task, by tensor name and by core."""


class BankKind(Protocol):
    """The interface of a bank, or of an adapter's description, as it is used here."""

    @property
    def plan(self) -> TensorizationPlan:
        """The plan."""

    @property
    def formats(self) -> Mapping[str, Format]:
        """The formats of one task by tensor name."""

    @property
    def scales(self) -> Mapping[str, float]:
        """The scales by tensor name."""


def rows_of(
    state: AdapterState,
    bank: BankKind,
    shared: Mapping[str, Tensor],
    head: Sequence[str],
    *,
    cores: bool = True,
) -> tuple[Rows, dict[str, Tensor]]:
    """Return the own cores of an adapter, at the scale of a bank, and its head.

    Args:
        state: The adapter.
        bank: The plan, formats and scales of the bank.
        shared: The shared cores by `TENSOR.CORE`.
        head: Names of the parameters of the head.
        cores: Whether the cores are needed, and their formats are those of the bank.

    Returns:
        The own cores by tensor and core, none if they are not needed, and the head by the names in the model.

    Raises:
        AdaptError: It has another plan, base model, head, other formats or shared cores.
    """
    other = state.description
    for part, expected, got in (
        ("plan", bank.plan, other.plan),
        ("formats", dict(bank.formats), dict(other.formats if cores else bank.formats)),
        ("head", sorted(head), sorted(other.head)),
        ("subtract_start", False, other.subtracts_start),
    ):
        if expected != got:
            raise AdaptError(
                f"the adapter differs from the bank in its {part}",
                expected=str(expected)[:300],
                got=str(got)[:300],
                fix="adapt a model with the bank's plan and format, or convert the adapter",
            )
    rows: Rows = {}
    for name in other.formats if cores else ():
        own = {}
        for core, value in state.cores(name).items():
            common = shared.get(f"{name}.{core}")
            if common is None:
                own[core] = value
            elif not torch.equal(common.detach().cpu(), value.to(common.dtype).cpu()):
                raise AdaptError(
                    f"the core {core!r} of tensor {name!r}, which the tasks share, is another one",
                    cause="it was trained in each adapter, or adapters with frozen cores started from other seeds",
                    fix="tensorfact.bank(model, adapters, shared=[...], tolerance=0.1), which brings them together",
                )
        if other.scales[name] and not bank.scales[name]:
            raise AdaptError(
                f"the scale of tensor {name!r} is 0 in the bank and {other.scales[name]:g} in the adapter",
                fix="tensorfact.bank(model, adapters), which brings adapters of any scales together",
            )
        ratio = other.scales[name] / bank.scales[name] if bank.scales[name] else 1.0
        last = next(reversed(own))
        rows[name] = {**own, last: own[last] * ratio} if ratio != 1 else own
    return rows, {name: state.tensors[HEAD + name] for name in head}


def frozen_cores(state: AdapterState) -> dict[str, Tensor]:
    """Return the cores of an adapter that do not train, by `TENSOR.CORE`: tasks have them in common.

    Args:
        state: The adapter.
    """
    description = state.description
    return {
        f"{name}.{core.name}": state.cores(name)[core.name]
        for name, format in description.formats.items()
        for core in format.network(description.modes[name]).cores
        if not core.trained
    }


def common_scales(states: Iterable[AdapterState]) -> dict[str, float]:
    """Return the scales of a bank of adapters: those of the first adapter whose scale is not 0.

    Args:
        states: The adapters.
    """
    found: dict[str, float] = {}
    for state in states:
        found = {name: found.get(name) or scale for name, scale in state.description.scales.items()}
    return found


def named_rows(cores: Mapping[str, Tensor]) -> Rows:
    """Return cores by the name of the tensor and of the core.

    Args:
        cores: Cores by `TENSOR.CORE`.
    """
    rows: Rows = {}
    for name, value in cores.items():
        tensor, _, core = name.rpartition(".")
        rows.setdefault(tensor, {})[core] = value
    return rows


def flat(rows: Rows) -> dict[str, Tensor]:
    """Return cores by `TENSOR.CORE`: the inverse of `named_rows`.

    Args:
        rows: Cores by tensor and core.
    """
    return {f"{tensor}.{core}": value for tensor, each in rows.items() for core, value in each.items()}

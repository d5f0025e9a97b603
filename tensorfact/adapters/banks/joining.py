"""A bank of adapters that were trained apart: exactly, or with cores in common."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from ...algebra.joining import JoinedTensor, join
from ...common.checks import flag, quoted
from ...common.table import Table
from ...errors import AdaptError, naming
from ...formats import format_label
from ...lora import from_lora
from ...model.parameters import refuse_adapted
from ...network import Dropout
from ...storage import AdapterState
from ...storage.bank_rows import common_scales, frozen_cores, rows_of
from ...storage.state import AdapterSource, state_of
from ..build import Parts, fitted
from ..options import AdaptOptions
from ..turns import one_at_a_time
from .bank import Bank
from .tasks import Tasks


@dataclasses.dataclass(frozen=True, eq=False)
class JoinedBank:
    """A bank of adapters, and how well it holds each. It prints as a table.

    Args:
        bank: The bank, attached to its model.
        errors: The relative error of the increments of every task, by tensor.
        before: Number of parameters of all adapters apart.
    """

    bank: Bank
    errors: Mapping[str, Mapping[str, float]]
    before: int

    @property
    def shrank(self) -> float:
        """How many times fewer parameters the bank has than the adapters apart."""
        return self.before / self.bank.num_parameters

    def __str__(self) -> str:
        formats = self.bank.formats
        rows = [
            (task, tensor, format_label(formats[tensor]), f"{error:.2e}")
            for task in self.bank.tasks
            for tensor, error in ((tensor, each[task]) for tensor, each in self.errors.items())
        ]
        return str(Table(("task", "tensor", "format", "error"), tuple(rows)))


def bank(
    model: nn.Module,
    adapters: Mapping[str, AdapterSource],
    *,
    shared: Collection[str] = (),
    tolerance: float | None = None,
    budget: int | None = None,
    check_base: bool = True,
) -> JoinedBank:
    """Bring adapters of one plan and format together in a bank, and attach it to a model.

    Without `shared` every task has the cores of its adapter, exactly. With it, the tasks get the given cores in common:
    the sum of all adapters is recompressed, to the ranks of the first one, within a tolerance, or within a budget.

    Args:
        model: The base model of the adapters.
        adapters: The adapters by the names of the tasks: files, folders, LoRA folders of peft, `AdapterState`s, or
            adapters on other models.
        shared: Names of the cores that all tasks share: all but those that hold the mode of the layers, such as
            `["U", "V"]` of a tensor train.
        tolerance: The largest relative error of each tensor of all adapters together.
        budget: The largest number of parameters of the bank.
        check_base: Raise an error if the base weights are not those that the adapters were trained on.

    Returns:
        The bank, and the true relative error of every task.

    Raises:
        AdaptError: The model is adapted already, the adapters have different plans, formats or heads, or these cores
            cannot be shared.
        FingerprintError: An adapter was made for another base model.
        RankError: The tolerance cannot be reached, or rank 1 exceeds the budget.
        CheckpointError: A file is missing or damaged.

    Examples:
        >>> from tensorfact import adapt, bank
        >>> from tensorfact.lab import nano
        >>> adapters = {name: adapt(nano(), seed=0) for name in ("flowers", "pets")}
        >>> joined = bank(nano(), adapters)
        >>> joined.bank.tasks, joined.bank.num_parameters
        (('flowers', 'pets'), 12288)
    """
    if not isinstance(adapters, Mapping) or not adapters:
        example = "{'pets': 'pets.safetensors'}"
        raise AdaptError("bank: adapters", expected="a dict of adapters by task", got=quoted(adapters), fix=example)
    flag(check_base, "bank: check_base", AdaptError)
    states = {}
    for task, source in adapters.items():
        with naming(f"task {task!r}"):
            states[task] = _state_of(source, model)
    with one_at_a_time(model):
        refuse_adapted(model, "bank")
        if shared or tolerance is not None or budget is not None:
            joined = join(list(states.values()), shared, tolerance=tolerance, budget=budget)
            made = _made(model, states, Tasks(list(states), tuple(shared), _classes(states)), joined)
            errors = {n: dict(zip(states, each.errors, strict=True)) for n, each in joined.items()}
        else:
            made = _made(model, states, Tasks(list(states), (), _classes(states)), None)
            errors = {name: dict.fromkeys(states, 0.0) for name in made.formats}
        for task, state in states.items():
            if check_base:
                base = made._beside.base(state.description.head)
                state.description.check_base(base, made.resolved.parameters, f"task {task!r}")
        made.attach()
    return JoinedBank(made, errors, sum(state.num_parameters for state in states.values()))


def _state_of(source: AdapterSource, model: nn.Module) -> AdapterState:
    """Return an adapter, or a LoRA of peft as one."""
    if isinstance(source, (str, os.PathLike)) and (Path(source) / "adapter_config.json").is_file():
        return from_lora(model, source).state
    return state_of(source)


def _made(
    model: nn.Module, states: Mapping[str, AdapterState], tasks: Tasks, joined: Mapping[str, JoinedTensor] | None
) -> Bank:
    """Return a bank with the values of the adapters, not yet attached."""
    first = next(iter(states.values()))
    description = first.description
    formats = description.formats if joined is None else {name: each.format for name, each in joined.items()}
    scales = common_scales(states.values()) if joined is None else dict.fromkeys(formats, 1.0)
    resolved, known, factors = fitted(model, description.plan, formats, scales)
    options = AdaptOptions(Dropout.of(description.dropout), seed=0, function="bank")
    tasks.require_cores(resolved, known)
    head = tuple(description.head)
    found = Bank(*Parts(model, description.plan, resolved, known, factors, head, options), tasks)
    rows, heads, frozen = [], [], frozen_cores(first) if joined is None else {}
    for task, state in states.items():
        with naming(f"task {task!r}"):
            row, own = rows_of(state, found, frozen, head, cores=joined is None)
        rows.append(row)
        heads.append(own)
    with torch.no_grad():
        for name, each in found._factors().items():
            for core, value in each.named_cores().items():
                if joined is not None:
                    value.copy_(joined[name].cores[core])
                elif core in each.owned:
                    value.copy_(torch.stack([row[name][core] for row in rows]))
                else:
                    value.copy_(first.cores(name)[core])
        found.heads.assign(heads)
    return found


def _classes(states: Mapping[str, AdapterState]) -> Sequence[int] | None:
    """Return the number of classes of every adapter: the rows of the last matrix of its head."""
    counts = []
    for state in states.values():
        matrices = [shape for shape in state.description.head.values() if len(shape) == 2]
        counts.append(matrices[-1][0] if matrices else 0)
    return counts if all(counts) else None

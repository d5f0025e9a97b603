"""A bank on disk, of which the tasks used last are in memory."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...common.checks import AnyPath, flag, whole_number
from ...errors import AdaptError, CheckpointError, naming
from ...model.parameters import refuse_adapted
from ...network import Dropout
from ...storage import AdapterState
from ...storage.bank_folder import BankFolder
from ...storage.bank_rows import named_rows
from ...storage.state import AdapterSource, state_of
from ..build import Parts, fitted
from ..options import AdaptOptions
from ..turns import one_at_a_time
from .bank import Bank
from .choice import TaskChoice
from .tasks import Tasks


class SlotChoice(TaskChoice):
    """The tasks that are in memory, each in a slot. The position of another one is that of the slot it is read into.

    Args:
        slots: The number of slots.
        read: Reads a task, and returns what writes it into a slot.
    """

    def __init__(self, slots: int, read: Callable[[str], Callable[[int], None]]) -> None:
        super().__init__([f"(slot {at})" for at in range(slots)])
        self._read = read
        self.used: OrderedDict[str, int] = OrderedDict()
        self.free = list(reversed(range(slots)))

    def position(self, name: object, argument: str) -> int:
        """Return the slot of a task, which is read if it is not in memory.

        Args:
            name: Its name.
            argument: Where it was passed, for the message.

        Raises:
            AdaptError: The name is no text.
            CheckpointError: There is no such task, or its file is damaged.
        """
        if not isinstance(name, str):
            raise AdaptError(argument, expected="the name of a task", got=repr(name), fix="bank.tasks lists them")
        if name not in self.used:
            write = self._read(name)  # an error changes nothing
            at = self.free.pop() if self.free else self.used.popitem(last=False)[1]
            self.names[at] = f"(slot {at})"
            try:
                write(at)
            except BaseException:  # such as a keyboard interrupt
                self.free.append(at)
                raise
            self.used[name] = at
            self.names[at] = name
        self.used.move_to_end(name)
        return self.used[name]

    def forget(self, name: str) -> None:
        """Free the slot of a task, if it has one.

        Args:
            name: Its name.
        """
        if name in self.used:
            self.free.append(self.used.pop(name))


class StoredBank(Bank):
    """A bank whose tasks are files, of which the last used ones are in memory. Created by `open_bank`.

    It serves and does not train. A task that is not in memory is read when it is first used. A task that is missing or
    damaged is an error that names it, and all others go on.

    Args:
        model: The base model.
        folder: The folder.
        slots: How many tasks are in memory.
        check_base: Whether the base weights are compared with those of the bank before a task is first used, which
            reads all of them.
    """

    _trains = False

    def __init__(self, model: nn.Module, folder: BankFolder, slots: int, *, check_base: bool) -> None:
        description = folder.description
        resolved, formats, scales = fitted(model, description.plan, description.formats, description.scales)
        options = AdaptOptions(Dropout.of(description.dropout), seed=0, check=False, function="open_bank")
        choice = SlotChoice(slots, self._read)
        parts = Parts(model, description.plan, resolved, formats, scales, folder.head, options)
        super().__init__(*parts, Tasks(choice.names, folder.shared), choice)
        self._folder, self._memory, self._checks = folder, choice, check_base
        self._batch: list[str] = []
        with torch.no_grad():
            for name, factors in self._factors().items():
                for core, value in factors.named_cores().items():
                    if core in factors.owned:
                        continue
                    if f"{name}.{core}" not in folder.cores:
                        raise CheckpointError(
                            f"the bank {folder.path} is damaged: the core {name}.{core} is missing", fix="restore it"
                        )
                    value.copy_(folder.cores[f"{name}.{core}"])
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self._switch.base, self._switch.on = True, False

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks in the folder."""
        return self._folder.names

    def add(
        self, task: str, state: AdapterSource | None = None, *, classes: int | None = None, seed: int | None = None
    ) -> None:
        """Add a task, or replace it: one file is written.

        Args:
            task: Its name.
            state: An adapter of the same plan and formats, whose shared cores are those of the bank.
            classes: Not used.
            seed: Not used.

        Raises:
            AdaptError: The name is no text, or `state` is missing or another adapter.
            CheckpointError: The file cannot be written.
        """
        [task] = Tasks([task]).names
        if state is None or classes is not None or seed is not None:
            raise AdaptError("add: a stored bank takes adapters", fix=f"bank.add({task!r}, 'adapter.safetensors')")
        with self._turns.changing("add()"):
            self._require_ready("add()")
            present, (cores, head) = self.task, self._folder.fitting(task, state_of(state))
            self.heads.require_fits(head)
            self._folder.write_task(task, cores, head)
            self._memory.forget(task)
            if task == present:
                self.use(task)

    def drop(self, task: str) -> None:
        """Delete the file of a task that is not in use.

        Args:
            task: Its name.

        Raises:
            AdaptError: It is in use.
            CheckpointError: It cannot be deleted.
        """
        with self._turns.changing("drop()"):
            self._require_ready("drop()")
            if task == self.task:
                raise AdaptError(f"drop: the task {task!r} is in use", fix="bank.use(None) first")
            self._folder.remove_task(task)
            self._memory.forget(task)

    def rename(self, task: str, name: str) -> None:
        """Not possible: other processes may be reading the file."""
        raise AdaptError("rename: a stored bank keeps its names", fix=f"bank.add({name!r}, bank.state({task!r}))")

    def train_only(self, task: str | None) -> None:
        """Not possible: a stored bank serves."""
        raise AdaptError("train_only: a stored bank does not train", fix="tensorfact.bank(model, adapters)")

    def classes(self, task: str) -> int:
        """Return the number of classes of a task, as `Bank.classes` does."""
        if task in self._memory.used:
            return self.heads.counts[self._memory.used[task]]
        head = self._folder.read_task(task)[1]
        return next((head[name].shape[0] for name in head if name in self.heads.last), self.heads.own or 0)

    @contextlib.contextmanager
    def batch(self, tasks: Sequence[str] | Tensor) -> Iterator[None]:
        """Run every sample of a batch with its own task, as `Bank.batch` does; at most as many tasks as slots."""
        with self._staying(), super().batch(tasks):
            yield

    def map(self, x: object, tasks: Sequence[str] | Tensor) -> Any:
        """Run the model task by task on the samples of a batch, as `Bank.map` does."""
        with self._staying():
            return super().map(x, tasks)

    @contextlib.contextmanager
    def _staying(self) -> Iterator[None]:
        """Context manager after which the task in use is the one of before, whose slot may have been taken."""
        with self._turns.changing("batch()"):
            present, rows, batch = self.task, self._choice.rows, self._batch
            try:
                yield
            finally:
                self._batch = batch
                if present is not None and self.task != present:
                    self._switch_to(self._choice.position(present, "use"), rows)
                if rows is not None:  # of a batch around this one, whose slots may have been taken
                    self._switch_to(self._choice.at, self._rows(batch))

    def state(self, task: str) -> AdapterState:
        """Return a copy of one task as an adapter of its own, read from its file.

        Args:
            task: The name of the task.

        Raises:
            CheckpointError: There is no such task, or its file is damaged.
        """
        return self._folder.state(task)

    def save(self, folder: AnyPath) -> None:
        """Not needed: every task is in its file."""
        raise AdaptError("save: a stored bank is on disk already", fix=f"copy the folder {self._folder.path}")

    def _rows(self, tasks: object) -> Tensor:
        if isinstance(tasks, Tensor):
            raise AdaptError(
                "batch: tasks", expected="names of tasks", got="a tensor", fix=f"bank.batch({list(self.tasks[:2])})"
            )
        names = list(tasks) if isinstance(tasks, Sequence) and not isinstance(tasks, str) else []
        if len(set(names)) > len(self._choice.names):
            raise AdaptError(
                f"batch: {len(set(names))} tasks for {len(self._choice.names)} slots",
                fix=f"tensorfact.open_bank(model, folder, slots={len(set(names))})",
            )
        self._batch = names
        for name in [name for name in dict.fromkeys(names) if name in self._memory.used]:
            self._memory.used.move_to_end(name)  # before others are read into the slots used longest ago
        return super()._rows(names)

    def _read(self, task: str) -> Callable[[int], None]:
        """Read a task, and return what writes it into a slot."""
        if self._checks:
            base = self._beside.base(self.heads.names)
            self._folder.description.check_base(base, self.resolved.parameters, f"the bank {self._folder.path}")
            self._checks = False
        cores, head = self._folder.read_task(task)
        with naming(f"task {task!r}"):
            self.heads.require_fits(head)
        rows = named_rows(cores)

        def write(at: int) -> None:
            if self._choice.at == at and self._choice.rows is None:
                self._switch_to(at, base=True)  # until it is chosen again: the slot held the task in use
            for tensor, factors in self._factors().items():
                factors.fill(at, rows[tensor])
            self.heads.fill(at, head)

        return write


def open_bank(model: nn.Module, folder: AnyPath, *, slots: int = 64, check_base: bool = True) -> StoredBank:
    """Open a bank that `Bank.save` wrote, and attach it to a model; no task is read yet, and the base model runs.

    Args:
        model: The base model.
        folder: The folder.
        slots: How many tasks are in memory; a mixed batch has at most so many.
        check_base: Raise an error at the first use of a task if the base weights are not those of the bank.

    Returns:
        The bank, which serves and does not train.

    Raises:
        CheckpointError: The folder holds no bank, or its file is damaged.
        AdaptError: The model is adapted already, or `slots` is not a positive int.

    Examples:
        >>> import tempfile
        >>> from tensorfact import adapt, open_bank
        >>> from tensorfact.lab import nano
        >>> folder = tempfile.mkdtemp()
        >>> adapt(nano(), tasks=["flowers", "pets"]).save(folder)
        >>> bank = open_bank(nano(), folder)
        >>> bank.use("pets")
        >>> bank.task
        'pets'
    """
    slots = whole_number(slots, "open_bank: slots", AdaptError, least=1)
    flag(check_base, "open_bank: check_base", AdaptError)
    with one_at_a_time(model):
        refuse_adapted(model, "open_bank")
        found = StoredBank(model, BankFolder.open(folder), slots, check_base=check_base)
        found.attach()
    return found

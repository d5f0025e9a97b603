"""The tasks of a bank: add, remove, rename them, and train one of them alone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from ...common.checks import whole_number
from ...errors import AdaptError
from ...storage.bank_rows import Rows, rows_of
from ...storage.state import AdapterSource, state_of
from ..options import fresh_seed
from ..trainable import Trainable
from .choice import TaskChoice
from .factors import TaskFactors
from .heads import TaskHeads
from .tasks import Tasks


class Membership(Trainable):
    """The part of a bank that holds its tasks."""

    heads: TaskHeads
    _choice: TaskChoice
    _labelled: bool
    _paused: Sequence[Tensor] = ()
    """The shared cores that `train_only` has frozen."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(self._choice.names)

    @property
    def task(self) -> str | None:
        """The task of all samples; None for the base model."""
        return None if self._switch.base else self._choice.names[self._choice.at]

    def add(
        self,
        task: str,
        state: AdapterSource | None = None,
        *,
        classes: int | None = None,
        seed: int | None = None,
    ) -> None:
        """Add a task. The owned cores and the heads become new parameters: create a new optimizer.

        Args:
            task: Its name.
            state: An adapter of the same plan and formats: a file, an `AdapterState`, or an adapter on another model.
                Its shared cores must be those of the bank. Default: an increment of zero, and a copy of the model's own
                head.
            classes: The number of classes of a fresh head of another size.
            seed: Seed of the random cores; default: drawn from torch's global generator.

        Raises:
            AdaptError: The name is taken or no text, a task trains alone, the bank is merged, disabled or removed, or
                `state` is another adapter.

        Examples:
            >>> from tensorfact import adapt
            >>> from tensorfact.lab import nano
            >>> bank = adapt(nano(), tasks=["flowers", "pets"])
            >>> bank.add("cars", classes=4)
            >>> bank.tasks, bank.classes("cars")
            (('flowers', 'pets', 'cars'), 4)
        """
        [task] = Tasks([task]).names
        classes = None if classes is None else whole_number(classes, "add: classes", AdaptError, least=1)
        seed = fresh_seed() if seed is None else whole_number(seed, "add: seed", AdaptError, least=0)
        with self._turns.changing("add()"), torch.inference_mode(False):
            self._require_all("add")
            if task in self.tasks:
                raise AdaptError(f"add: the bank has a task {task!r}", fix=f"bank.drop({task!r}), or another name")
            generator = torch.Generator().manual_seed(seed)
            if state is None:
                rows = {name: factors.fresh_row(generator) for name, factors in self._factors().items()}
                head = None
            else:
                rows, head = self._rows_of(state)
            self.heads.extend(head, classes, generator)  # refuses what it cannot hold
            for name, factors in self._factors().items():
                factors.extend(rows[name])
            self._choice.add(task)

    def drop(self, task: str) -> None:
        """Remove a task that is not in use. The owned cores and heads of the others become new parameters.

        Args:
            task: Its name.

        Raises:
            AdaptError: There is no such task, it is in use or the only one, a task trains alone, or the bank is merged,
                disabled or removed.
        """
        with self._turns.changing("drop()"):
            self._require_all("drop")
            at = self._choice.position(task, "drop")
            if task == self.task or len(self.tasks) == 1:
                other = next((name for name in self.tasks if name != task), None)
                fix = "bank.remove()" if other is None else f"bank.use({other!r}) first"
                raise AdaptError(f"drop: the task {task!r} is in use", fix=fix)
            for factors in self._factors().values():
                factors.shrink(at)
            self.heads.shrink(at)
            present, left = self._choice.names[self._choice.at], [name for name in self.tasks if name != task]
            self._choice.replace(left)
            self._choice.use(left.index(present) if present in left else 0)

    def rename(self, task: str, name: str) -> None:
        """Give a task another name.

        Args:
            task: Its name.
            name: The new name.

        Raises:
            AdaptError: There is no such task, or the new name is taken or no text.
        """
        [name] = Tasks([name]).names
        with self._turns.changing("rename()"):
            at = self._choice.position(task, "rename")
            if name in self.tasks and name != task:
                raise AdaptError(f"rename: the bank has a task {name!r}", fix="pass another name")
            names = list(self.tasks)
            names[at] = name
            self._choice.replace(names)

    def train_only(self, task: str | None) -> None:
        """Train one task, and let all others compute bit for bit what they do; or with None all of them again.

        The shared cores are frozen, and the task's own cores and head become parameters of their own, as weight decay
        would change those of all tasks: create a new optimizer. The task is in use from then on.

        Args:
            task: The name of the task; None to train all tasks and the shared cores.

        Raises:
            AdaptError: There is no such task, or the bank is merged, disabled or removed.

        Examples:
            >>> from tensorfact import Tasks, adapt
            >>> from tensorfact.lab import nano
            >>> bank = adapt(nano(), tasks=Tasks(["flowers", "pets"], ["U", "V"]))
            >>> bank.train_only("pets")
            >>> sum(p.numel() for p in bank.parameters() if p.requires_grad)  # 8 x 72 x 8 of S1, and a head
            5578
        """
        with self._turns.changing("train_only()"), torch.inference_mode(False):
            self._require_ready("train_only()")
            at = None if task is None else self._choice.position(task, "train_only")
            parts = [(f.alone, f.owned_parameters()) for f in self._factors().values()]
            parts.append((self.heads.alone, self.heads.parameters_by_key()))
            for alone, stacked in parts:
                alone.end(stacked)
                if at is not None:
                    alone.begin(at, stacked)
            for core in self._paused:
                core.requires_grad_(True)
            shared = [core for factors in self._factors().values() for core in factors.shared_parameters()]
            self._paused = [] if at is None else [core for core in shared if core.requires_grad]
            for core in self._paused:
                core.requires_grad_(False)
            if at is not None:
                self._switch_to(at)

    @property
    def trained(self) -> str | None:
        """The task that trains alone; None if all do."""
        at = self.heads.alone.at
        return None if at < 0 else self._choice.names[at]

    def get_extra_state(self) -> Tensor:
        """Return the names of the tasks and their numbers of classes, as the text of `state_dict`."""
        text = json.dumps({"tasks": list(self.tasks), "classes": self.heads.counts})
        return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Check that a state dict is one of the same tasks.

        Args:
            state: What `get_extra_state` returned.

        Raises:
            AdaptError: Its tasks have other names, another order, or other numbers of classes.
        """
        own = self.get_extra_state()
        if not torch.equal(own, state.cpu()):
            raise AdaptError(
                "load_state_dict: a bank of other tasks",
                expected=bytes(own.tolist()).decode(),
                got=bytes(state.tolist()).decode(errors="replace")[:300],
                fix="make the bank with the tasks of the state dict, in its order and with its classes",
            )

    def _require_ready(self, call: str) -> None:
        """Raise if the bank is merged, disabled or removed, or a mixed batch runs."""
        self._require(merged=False, changing=True)
        if self._choice.rows is not None and not self._labelled:
            raise AdaptError(
                f"{call} inside `with bank.batch(tasks):`",
                cause="every sample has its own task there",
                fix="call it after the block",
            )

    def _require_task(self, call: str) -> None:
        """Raise if the base model is in use."""
        if self.task is None:
            raise AdaptError(f"{call}: no task is in use", fix=f"bank.use({next(iter(self.tasks), 'task')!r}) first")

    def _require_all(self, call: str) -> None:
        self._require_ready(f"{call}()")
        if self.heads.alone.at >= 0:
            raise AdaptError(
                f"{call}: the task {self._choice.names[self.heads.alone.at]!r} trains alone",
                fix="bank.train_only(None) first",
            )

    def _rows_of(self, source: AdapterSource) -> tuple[Rows, dict[str, Tensor]]:
        """Return the own cores and the head of an adapter that fits the bank."""
        shared = {
            f"{name}.{core}": value
            for name, factors in self._factors().items()
            for core, value in factors.named_cores().items()
            if core not in factors.owned
        }
        return rows_of(state_of(source), self, shared, self.heads.names)

    def _factors(self) -> dict[str, TaskFactors]:
        return {name: cast("TaskFactors", factors) for name, factors in self._links.factors.items()}

    @contextlib.contextmanager
    def _switched(self, call: str) -> Iterator[None]:
        """Context manager in which tasks run, and after which the choice is that of before."""
        with self._turns.changing(call):
            self._require(merged=False, changing=True)
            before, base = (self._choice.at, self._choice.rows), self._switch.base
            self._switch_to(self._choice.at)
            try:
                yield
            finally:
                self._switch_to(*before, base=base)

    @property
    def _device(self) -> torch.device:
        return next(iter(self._links.factors.values())).tensors()[0].device

    def _switch_to(self, at: int, rows: Tensor | None = None, *, base: bool = False) -> None:
        self._choice.use(at, rows)
        self._switch.base, self._switch.on = base, not base

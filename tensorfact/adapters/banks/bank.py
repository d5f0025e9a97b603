"""The bank: the factors and heads of several tasks, attached to one model."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...common.checks import AnyPath, file_path, quoted
from ...errors import AdaptError
from ...formats import Format
from ...model.example import ExampleInput, as_example
from ...model.parameters import base_parameters
from ...plan import ResolvedPlan, TensorizationPlan
from ...storage import AdapterState
from ...storage.bank_folder import BankFolder, new_identity
from ..explain import Explanation
from ..increments import NOMINAL_TOKENS
from ..options import AdaptOptions
from ..place import require_finite, slot_of
from ..snapshot import snapshot
from ..trainable import ScaleState
from .choice import TaskChoice
from .heads import TaskHeads
from .links import TaskLinks
from .membership import Membership
from .mixing import Mixing
from .samples import require_samples
from .tasks import Tasks

_WHOLE = (torch.long, torch.int32, torch.int16, torch.uint8, torch.int8)


class Bank(Membership):
    """The factors and heads of several tasks, attached to one model. Created by `adapt` with `tasks`.

    It is registered on the model's root as `model.tensorfact`. A forward pass runs with one task, or every sample of a
    batch with its own: see `use` and `batch`. Which cores have an axis over tasks decides what the tasks share.

    Args:
        model: The base model.
        plan: The weights to adapt, and how they fold into tensors.
        resolved: The plan, resolved on the model.
        formats: Formats by tensor name.
        scales: Scales by tensor name.
        head: Names of the parameters of the model's head, which every task has for itself.
        options: The other options of `adapt`.
        tasks: The tasks, and the cores that they share.
        choice: The choice of tasks; default: one of all of them.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: TensorizationPlan,
        resolved: ResolvedPlan,
        formats: Mapping[str, Format],
        scales: Mapping[str, float],
        head: tuple[str, ...],
        options: AdaptOptions,
        tasks: Tasks,
        choice: TaskChoice | None = None,
    ) -> None:
        super().__init__(model, plan, resolved, (), recompute=options.recompute)
        self.shared, self._choice = tuple(tasks.shared), choice or TaskChoice(tasks.names)
        links = TaskLinks(
            model, resolved, formats, scales, self._switch, options, choice=self._choice, shared=tasks.shared
        )
        self._link(links)
        classes = list(tasks.classes) if tasks.classes else [None] * len(tasks.names)
        self.heads = TaskHeads(model, head, classes, self._choice, self._switch, options.generator())
        self.scale_state, self._labelled = ScaleState(self), False
        layers = {module: name in links.activation for name, module, _ in links.places()} | self.heads.layers
        self._mixing = Mixing(model, self._choice, links.passes, list(layers), linear=all(layers.values()))

    # -------------------------------------------------------------------------------------------------------- choosing

    def use(self, task: str | None) -> None:
        """Run all samples with one task until this is called again. No weight is copied.

        Args:
            task: The name of a task; None for the base model.

        Raises:
            AdaptError: There is no such task, or the bank is merged, disabled or removed.

        Examples:
            >>> from tensorfact import adapt
            >>> from tensorfact.lab import nano
            >>> bank = adapt(nano(), tasks=["flowers", "pets"])
            >>> bank.use("pets")
            >>> bank.task
            'pets'
        """
        with self._turns.changing("use()"):
            self._require_ready("use()")
            self._switch_to(self._choice.at if task is None else self._choice.position(task, "use"), base=task is None)

    @contextlib.contextmanager
    def batch(self, tasks: Sequence[str] | Tensor) -> Iterator[None]:
        """Context manager in which every sample of a batch runs with its own task. Other threads wait.

        The logits of tasks with fewer classes than others are minus infinity beyond their own; see `classes`.

        Args:
            tasks: The name of the task of each sample, or their positions in `tasks` as a tensor (samples,).

        Raises:
            AdaptError: There is no such task, the bank is merged, disabled or removed, or the model is called with
                another number of samples.

        Examples:
            >>> import torch
            >>> from tensorfact import adapt
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> bank = adapt(model, tasks=["flowers", "pets"])
            >>> with bank.batch(["pets", "flowers", "pets"]):
            ...     model(torch.zeros(3, 1, 28, 28)).shape
            torch.Size([3, 10])
        """
        with self._switched("batch()"):
            rows = self._rows(tasks)
            self._mixing.prepare()
            self._switch_to(self._choice.at, rows)
            with self._mixing.opened():
                yield

    @contextlib.contextmanager
    def labelled(self) -> Iterator[None]:
        """Context manager in which every call of the model says the tasks of its samples; used by `fit`.

        The model takes one argument more: the positions of the tasks (samples,), as `tasks` or last.

        Raises:
            AdaptError: The bank is merged, disabled or removed.
        """
        with self._switched("labelled()"):
            self._mixing.prepare()
            self._labelled = True
            try:
                with self._mixing.opened():
                    yield
            finally:
                self._labelled = False

    def map(self, x: object, tasks: Sequence[str] | Tensor) -> Any:
        """Run the model task by task on the samples of a batch, and return the outputs in the order of the batch.

        This is what `batch` does for models that have no exact product for samples of several tasks: where a weight is
        read and not called, as in convolutions and `nn.MultiheadAttention`, or where samples are not in front.

        Args:
            x: The model's input: a tensor, a tuple of arguments, or a mapping of keyword arguments.
            tasks: As in `batch`.

        Returns:
            The model's output; logits of tasks with fewer classes than others are padded with minus infinity.

        Raises:
            AdaptError: As for `batch`, or a tensor of the output has no sample in front.

        Examples:
            >>> import torch
            >>> from tensorfact import adapt
            >>> from tensorfact.lab import nano
            >>> bank = adapt(nano(), tasks=["flowers", "pets"])
            >>> bank.map(torch.zeros(3, 1, 28, 28), ["pets", "flowers", "pets"]).shape
            torch.Size([3, 10])
        """
        example = as_example(x)
        with self._switched("map()"):
            rows = self._rows(tasks)
            require_samples(example, len(rows))
            return self._mixing.mapped(rows, example, lambda part: part.run(self.model))

    @property
    def together(self) -> bool | None:
        """Whether a batch of several tasks runs in one pass, or else task by task; None until that is found out."""
        return self._mixing.together

    def classes(self, task: str) -> int:
        """Return the number of classes of a task, whose logits come first.

        Args:
            task: The name of the task.

        Raises:
            AdaptError: There is no such task.
        """
        return self.heads.counts[self._choice.position(task, "classes")]

    def _rows(self, tasks: object) -> Tensor:
        if isinstance(tasks, str):
            tasks = [tasks]
        elif isinstance(tasks, Sequence) or (isinstance(tasks, Iterable) and not isinstance(tasks, Tensor)):
            tasks = list(tasks)
        if isinstance(tasks, list):
            tasks = torch.tensor([self._choice.position(name, "batch") for name in tasks], dtype=torch.long)
        if not isinstance(tasks, Tensor):
            raise self._no_tasks(quoted(tasks))
        whole = tasks.dim() == 1 and len(tasks) > 0 and tasks.dtype in _WHOLE
        if not whole or int(tasks.min()) < 0 or int(tasks.max()) >= len(self._choice.names):
            raise self._no_tasks(f"{tasks.dtype} {tuple(tasks.shape)}")
        return tasks.to(self._device, torch.long)  # once, not in every layer

    def _no_tasks(self, got: str) -> AdaptError:
        return AdaptError(
            "batch: tasks",
            expected=f"names, or a tensor (samples,) of ints from 0 to {len(self.tasks) - 1}",
            got=got,
            fix=f"bank.batch([{self.tasks[0]!r}, ...]), one name for each sample",
        )

    # ---------------------------------------------------------------------------------------------------------- values

    def state(self, task: str) -> AdapterState:
        """Return a copy of one task as an adapter of its own, which saves, merges and converts like any other.

        Args:
            task: The name of the task.

        Raises:
            AdaptError: There is no such task, or the bank is removed from its model.
        """
        with self._turns.reading():
            self._require()
            self._links.check_base()
            at = self._choice.position(task, "state")
            return snapshot(self.plan, self._links, self._beside, self._cores_of(at), self.heads.of_task(at))

    def save(self, folder: AnyPath) -> None:
        """Write the bank to a folder: what the tasks share in one file, and one file for each task.

        Args:
            folder: The folder; it is created if it is missing. Tasks of a bank that was there before are replaced.

        Raises:
            AdaptError: The bank is removed, or a layer or base weight was exchanged.
            CheckpointError: A file cannot be written.
            FormatError: A format has no registered name.

        Examples:
            >>> import tempfile
            >>> from tensorfact import adapt, open_bank
            >>> from tensorfact.lab import nano
            >>> folder = tempfile.mkdtemp()
            >>> adapt(nano(), tasks=["flowers", "pets"]).save(folder)
            >>> open_bank(nano(), folder, slots=1).tasks
            ('flowers', 'pets')
        """
        with self._turns.reading():
            self._require()
            self._links.check_base()
            one = snapshot(self.plan, self._links, self._beside, self._cores_of(0), self.heads.of_task(0))
            description = dataclasses.replace(one.description, head={})
            owned = {f"{name}.{core}" for name, factors in self._factors().items() for core in factors.owned}
            shared = {name: core for name, core in self.named_cores().items() if name not in owned}
            path = file_path(folder, "Bank.save: folder", AdaptError)
            BankFolder(path, description, self.shared, self.heads.names, shared, new_identity()).write(
                (task, {n: core for n, core in self._cores_of(at).items() if n in owned}, self.heads.of_task(at))
                for at, task in enumerate(self.tasks)
            )

    def delta(self, parameter_name: str) -> Tensor:
        """Return the dense increment of one parameter of the task in use, scale included.

        Args:
            parameter_name: The parameter's name in the model.

        Raises:
            AdaptError: The parameter is not adapted.
        """
        with self._turns.reading():
            self._require_task("delta")
            return (slot := slot_of(parameter_name, self._slots)).increment.dense() * slot.scale

    def merge(self, task: str | None = None) -> None:
        """Write the effective weights of one task into the base parameters; the originals are kept for `unmerge`.

        Args:
            task: The name of the task; default: the one in use.

        Raises:
            AdaptError: As for `Adapter.merge`, or there is no such task.
        """
        with self._turns.changing("merge()"):
            self._require_ready("merge()")
            self._links.check_base()
            if task is None:
                self._require_task("merge")
            at = self._choice.at if task is None else self._choice.position(task, "merge")
            require_finite(self._cores_of(at))
            before = self._choice.at, self._choice.rows
            self._choice.use(at)
            try:
                self._originals.replace(self._slots)
            except BaseException:
                self._choice.use(*before)
                raise
            self._switch.on = self._switch.base = False

    def remove(self) -> None:
        """Remove the bank from the model, which becomes the base model again, with its head.

        If a task is merged, the merged weights stay, and its head becomes that of the model.

        Raises:
            AdaptError: As for `Adapter.remove`, or the head of the merged task has another size than the model's own.
        """
        head = self.heads.of_task(self._choice.at) if self.merged else {}
        parameters = base_parameters(self.model)
        for name, value in head.items():
            if value.shape != parameters[name].shape:
                raise AdaptError(
                    f"remove: the head of the merged task {self.task!r} has another size than the model's own",
                    expected=f"{name} of shape {tuple(parameters[name].shape)}",
                    got=f"shape {tuple(value.shape)}",
                    fix="bank.unmerge() first, and load_adapter(model, state) into a model with a head of this size",
                )
        super().remove()
        with torch.no_grad():
            for name, value in head.items():
                parameters[name].copy_(value)

    def _head_parameters(self) -> list[Tensor]:
        return list(self.heads.parameters())

    def _cores_of(self, at: int) -> dict[str, Tensor]:
        each = self._factors()
        return {
            f"{name}.{core}": value for name, factors in each.items() for core, value in factors.of_task(at).items()
        }

    # ------------------------------------------------------------------------------------------------------- attaching

    def attach(self) -> None:
        """Attach the bank to its model; used by `adapt`. On an error the model is left unchanged."""
        super().attach()
        self.heads.attach()
        self._hooks = [
            self.model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.model.register_forward_hook(self._choice.follow),
        ]

    def _detach(self) -> None:
        if self._attached:
            self.heads.detach()
        super()._detach()
        for hook in self.__dict__.pop("_hooks", ()):
            hook.remove()

    def _begin(
        self, model: nn.Module, arguments: tuple[object, ...], options: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        if self._labelled and model is self.model:
            options = dict(options)
            *inputs, tasks = (*arguments, options.pop("tasks")) if "tasks" in options else arguments
            self._choice.use(self._choice.at, self._rows(tasks))
            arguments = tuple(inputs)
        self._choice.begin()
        if self._choice.rows is not None and model is self.model:
            require_samples(ExampleInput(arguments, options), len(self._choice.rows))
        return arguments, options

    def explain(self, tokens: int = NOMINAL_TOKENS, *, measure: bool = False) -> Explanation:
        """Show what `Adapter.explain` shows, of one task, and how a batch of several tasks runs.

        Args:
            tokens: As in `Adapter.explain`.
            measure: As in `Adapter.explain`.

        Examples:
            >>> from tensorfact import adapt
            >>> from tensorfact.lab import nano
            >>> print(str(adapt(nano(), tasks=["flowers", "pets"]).explain()).splitlines()[-1])
            batches of several tasks: in one pass
        """
        found = super().explain(tokens, measure=measure)
        if self._attached and not self.merged and not self._switch.disabled:
            with self._switched("explain()"):
                self._mixing.prepare()
        return dataclasses.replace(found, note=self._mixing.note)

    def extra_repr(self) -> str:
        """Return the formats and the number of tasks, for `print(model)`."""
        return f"{len(self.tasks)} tasks, {super().extra_repr()}"

"""The task that each sample runs with, chosen for a whole bank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...common.checks import quoted
from ...errors import AdaptError, nearest
from ...model.outputs import tensors_of


class TaskChoice:
    """The names of a bank's tasks, and the task of every sample; shared by its factors, layers and heads.

    Args:
        names: Names of the tasks, at least one.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.replace(names)
        self.at = 0
        """The position of the task of all samples."""
        self.rows: Tensor | None = None
        """In a mixed batch, the position of the task of each sample (samples,)."""
        self.version = self.seen = 0
        self.dividing = self.parts = False
        """Whether a batch is running task by task, and whether the last forward pass with gradients did."""
        self._index = torch.zeros(1, dtype=torch.long, device="cpu")

    def add(self, name: str) -> None:
        """Add a task behind the others."""
        self.names.append(name)
        self._places[name] = len(self.names) - 1

    def replace(self, names: Sequence[str]) -> None:
        """Give the tasks other names, or take some away."""
        self.names = list(names)
        self._places = {name: at for at, name in enumerate(self.names)}

    def position(self, name: object, argument: str) -> int:
        """Return the position of a task.

        Args:
            name: Its name.
            argument: Where it was passed, for the message.

        Raises:
            AdaptError: There is no such task.
        """
        if not isinstance(name, str) or name not in self._places:
            shown = ", ".join(map(repr, self.names[:8])) + (", ..." if len(self.names) > 8 else "")
            raise AdaptError(
                f"{argument}: no such task",
                expected=f"one of {shown}",
                got=f"{quoted(name)}{nearest(str(name), self.names)}",
                fix=f"bank.use({self.names[0]!r})" if argument == "use" else f"pass {self.names[0]!r}",
            )
        return self._places[name]

    def use(self, at: int, rows: Tensor | None = None) -> None:
        """Choose one task for all samples, or with `rows` one for each.

        Args:
            at: The position of the task for all samples.
            rows: The positions for a mixed batch (samples,).
        """
        self.at, self.rows, self.version = at, rows, self.version + 1
        self._index = torch.tensor([at], device="cpu")

    def of(self, stacked: Tensor) -> Tensor:
        """Return the part of a tensor (task, ...) that is the present task's: a view.

        Args:
            stacked: A tensor with one row for each task.
        """
        if torch.compiler.is_compiling():  # an index that is a tensor, so that another task is the same code
            return stacked.index_select(0, self._index.to(stacked.device))[0]
        return stacked[self.at]

    def each(self, stacked: Tensor) -> Tensor:
        """Return the parts of a tensor (task, ...) of the samples of a mixed batch (samples, ...).

        Args:
            stacked: A tensor with one row for each task.
        """
        assert self.rows is not None
        return stacked.index_select(0, self.rows.to(stacked.device))

    def begin(self) -> None:
        """Record that a forward pass runs with the present choice."""
        if not torch.compiler.is_compiling() and torch.is_grad_enabled():
            self.seen, self.parts = self.version, self.dividing

    def follow(self, model: object, inputs: object, output: object) -> None:
        """Let the backward pass of a forward pass with the present choice say so when it begins; a forward hook.

        Args:
            model: The model.
            inputs: Its arguments.
            output: Its output.
        """
        version, parts = self.version, self.parts

        def begins(_: Tensor) -> None:
            self.seen, self.parts = version, parts

        if not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
            for tensor in tensors_of(output):
                if tensor.requires_grad:
                    tensor.register_hook(begins)  # type: ignore[no-untyped-call]  # of torch

    def require_same(self) -> None:
        """Raise if a layer runs again in a backward pass with another choice than in the last forward pass.

        Raises:
            AdaptError: Gradient checkpointing would compute the gradient of another model.
        """
        if torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1:
            return
        if self.parts:
            raise AdaptError(
                "gradient checkpointing of a batch that runs task by task",
                cause="the backward pass runs layers again, and does not know with which of the tasks",
                fix="turn gradient checkpointing off, or bank.use(task) and batches of one task",
            )
        if self.seen == self.version:
            return
        raise AdaptError(
            "a backward pass runs layers again with other tasks than the forward pass",
            cause="gradient checkpointing, and loss.backward() after another call of use(), or outside of batch()",
            fix="call loss.backward() before bank.use(), and inside `with bank.batch(tasks):`",
        )

"""How a model runs a batch of several tasks: in one pass where that is exact, else task by task."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...model.example import ExampleInput, known_example, observing, runs
from ..increments import Passes
from .choice import TaskChoice
from .samples import chosen, have_samples_in_front, joined, require_divisible, samples_of


class Mixing:
    """Runs mixed batches of a model.

    One pass is exact if all adapted parameters are weights of linear layers that are called, and their inputs have the
    samples in front. The latter is found out on the example input of the model, or else on the first mixed batch.

    Args:
        model: The model.
        choice: The tasks, and which of them runs.
        passes: Forward passes of the model.
        layers: The layers with parameters of tasks.
        linear: Whether all of these are linear layers.
    """

    def __init__(
        self, model: nn.Module, choice: TaskChoice, passes: Passes, layers: Sequence[nn.Module], *, linear: bool
    ) -> None:
        self.model, self._choice, self._passes, self._layers = model, choice, passes, tuple(layers)
        self.together: bool | None = None if linear else False
        """Whether mixed batches run in one pass; None if that is not known yet."""

    def prepare(self) -> None:
        """Find out how mixed batches run, if an example input is known; the tasks must be in use."""
        if self.together is None and (example := known_example(self.model)) is not None:
            self.together = self._find_out(example)

    @property
    def note(self) -> str:
        """A line that says how mixed batches run."""
        reason = "a weight is read and not called, or the input of a layer does not have the samples in front"
        how = {True: "in one pass", False: f"task by task, as {reason}", None: "the first one shows how"}
        return f"batches of several tasks: {how[self.together]}"

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Context manager in which a call of the model runs task by task if it has to."""
        if self.together:
            yield
            return
        before = self.model.__dict__.get("forward")
        self.model.__dict__["forward"] = self._forward(self.model.forward)
        try:
            yield
        finally:
            del self.model.__dict__["forward"]
            if before is not None:
                self.model.__dict__["forward"] = before

    def mapped(self, rows: Tensor, example: ExampleInput, run: Callable[[ExampleInput], object]) -> Any:
        """Run a model on the samples of each task, and return the outputs in the order of the batch.

        Args:
            rows: The position of the task of each sample.
            example: The arguments for all samples.
            run: Calls the model.
        """
        outputs, before, rows = [], (self._choice.at, self._choice.rows), rows.cpu()
        require_divisible(example)
        self._choice.dividing = True
        try:
            for at in sorted(set(rows.tolist())):
                index = (rows == at).nonzero().flatten()
                self._choice.use(at)
                outputs.append((index, run(chosen(example, index, len(rows)))))
        finally:
            self._choice.use(*before)
            self._choice.dividing = False
        self._choice.parts = torch.is_grad_enabled()
        return joined(outputs, len(rows))

    def _forward(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: object, **keywords: object) -> Any:
            example = ExampleInput(arguments, keywords)
            if self.together is None and self._choice.rows is not None:
                self.together = bool(self._find_out(example))
            if self.together or self._choice.rows is None:  # a call of the model inside of one for a task
                return forward(*arguments, **keywords)
            return self.mapped(self._choice.rows, example, one)

        def one(part: ExampleInput) -> object:
            self._passes.restart()  # what was formed is another task's
            return forward(*part.arguments, **part.keywords)

        return run

    def _runs_mixed(self, example: ExampleInput) -> bool:
        """Return whether a model runs on samples of several tasks: not if it also reads a weight, as T5 does."""
        pair = chosen(example, torch.zeros(2, dtype=torch.long), samples_of(example) or 0)
        self._choice.use(self._choice.at, torch.tensor(2 * [self._choice.at]))
        with observing(self.model):
            return runs(lambda: pair.run(self.model))

    def _find_out(self, example: ExampleInput) -> bool | None:
        before, own = (self._choice.at, self._choice.rows), self.model.__dict__.pop("forward", None)
        self._choice.use(self._choice.at)
        try:
            found = have_samples_in_front(self.model, self._layers, example)
            return self._runs_mixed(example) if found else found
        finally:
            self._choice.use(*before)
            if own is not None:
                self.model.__dict__["forward"] = own

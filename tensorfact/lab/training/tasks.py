"""The samples of several tasks in one training run of a bank."""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, overload

from torch import nn
from torch.utils.data import DataLoader, Dataset

from ...adapters import Bank
from ...common.checks import quoted
from ...errors import TrainingError
from .schedule import Samples, size_of
from .sources import Data, check_data

TaskData = Mapping[str, Samples]
"""Samples of each task of a bank, by the task's name."""


class TaskSamples(Dataset[Any]):
    """The samples of all tasks one after the other; each has the position of its task before the label.

    Shuffled, they mix the tasks in proportion to their numbers of samples.

    Args:
        data: The samples of each task.
        positions: The position of each of these tasks in the bank.
    """

    def __init__(self, data: TaskData, positions: Mapping[str, int]) -> None:
        self.parts, self.positions = list(data.values()), [positions[name] for name in data]
        self.ends = list(itertools.accumulate(map(size_of, self.parts)))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> object:
        """Return a sample with the position of its task: as `tasks` in a dict, else before the label."""
        part = bisect.bisect_right(self.ends, index)
        sample = self.parts[part][index - (self.ends[part - 1] if part else 0)]
        if isinstance(sample, Mapping):
            return {**sample, "tasks": self.positions[part]}
        *inputs, label = sample
        return (*inputs, self.positions[part], label)


@overload
def all_samples(model: nn.Module, data: Data | TaskData, argument: str) -> Data: ...


@overload
def all_samples(model: nn.Module, data: Data | TaskData | None, argument: str) -> Data | None: ...


def all_samples(model: nn.Module, data: Data | TaskData | None, argument: str) -> Data | None:
    """Return the samples of several tasks as one data set; other data as they are.

    Args:
        model: The model, with a bank.
        data: Samples by task, or data without tasks.
        argument: Where it was passed, for messages.

    Raises:
        TrainingError: The model has no bank with these tasks, or a task has no data set.
    """
    if not isinstance(data, Mapping):
        return data
    bank = bank_of(model, argument)
    for name, part in data.items():
        if name not in bank.tasks:
            raise TrainingError(
                f"{argument}: no such task",
                expected=f"some of {list(bank.tasks)}",
                got=quoted(name),
                fix="bank.add(task)",
            )
        check_data(part, f"{argument}[{name!r}]")
        if isinstance(part, DataLoader):
            raise TrainingError(
                f"{argument}[{name!r}]", expected="a data set", got="a DataLoader", fix="pass loader.dataset"
            )
    if not data:
        raise TrainingError(f"{argument} is empty", fix="pass the samples of at least one task")
    return TaskSamples(data, {name: at for at, name in enumerate(bank.tasks)})


def training_samples(model: nn.Module, data: Data | TaskData) -> Data:
    """Return the samples of several tasks as one data set to train on; other data as they are.

    Args:
        model: The model, with a bank.
        data: Samples by task, or data without tasks.

    Raises:
        TrainingError: As in `all_samples`, or a task trains alone and another one has samples.
    """
    samples = all_samples(model, data, "fit: train")
    if not isinstance(data, Mapping):
        return samples
    only = bank_of(model, "fit: train").trained
    if only is not None and set(data) != {only}:
        raise TrainingError(
            f"fit: train: only the task {only!r} trains",
            got=f"samples of {', '.join(map(repr, data))}",
            fix=f"bank.train_only(None), or {{{only!r}: samples}}",
        )
    return samples


def bank_of(model: nn.Module, argument: str) -> Bank:
    """Return the bank of a model.

    Args:
        model: The model.
        argument: What needs it, for messages.

    Raises:
        TrainingError: The model has none.
    """
    found = getattr(model, "tensorfact", None)
    if not isinstance(found, Bank):
        raise TrainingError(
            f"{argument}: samples by task need a model with a bank",
            got=type(found).__name__,
            fix="tensorfact.adapt(model, plan, format, tasks=['flowers', 'pets'])",
        )
    return found


@contextlib.contextmanager
def with_tasks_of_samples(model: nn.Module, *data: object) -> Iterator[None]:
    """Context manager in which the model takes the task of each sample with its inputs, if some data have tasks.

    Args:
        model: The model.
        data: What `all_samples` returned.
    """
    if any(isinstance(each, TaskSamples) for each in data):
        with bank_of(model, "fit").labelled():
            yield
    else:
        yield

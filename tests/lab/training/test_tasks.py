"""Training the tasks of a bank together: the samples of all of them, each with its own task."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tensorfact import Bank, Tasks, adapt, fit, plan_for
from tensorfact.errors import TrainingError
from tensorfact.lab import digits, nano
from tensorfact.lab.training.tasks import TaskSamples, all_samples
from tests.helpers import infer, refused, state_bits


def bank() -> Bank:
    model = nano()
    tasks = Tasks(["low", "high"], ["U", "V"], [5, 5])
    return adapt(model, plan_for(model), "tt:rank=4", tasks=tasks, seed=0)


def data(model: Any, count: int = 240) -> dict[str, TensorDataset]:
    """Return two tasks: the digits 0 to 4, and 5 to 9."""
    splits = digits(model, train=count, val=100)
    x = torch.stack([x for x, _ in cast("Any", splits.train)])
    y = torch.tensor([int(label) for _, label in cast("Any", splits.train)])
    return {"low": TensorDataset(x[y < 5], y[y < 5]), "high": TensorDataset(x[y >= 5], y[y >= 5] - 5)}


def test_samples_of_all_tasks_are_one_data_set() -> None:
    first = TensorDataset(torch.zeros(2, 3), torch.tensor([0, 1]))
    second = TensorDataset(torch.ones(1, 3), torch.tensor([2]))
    found = TaskSamples({"b": first, "a": second}, {"a": 0, "b": 1})
    assert len(found) == 3
    samples = [cast("Any", found[index]) for index in range(3)]
    assert [(float(x.mean()), task, int(y)) for x, task, y in samples] == [(0, 1, 0), (0, 1, 1), (1, 0, 2)]
    dicts = TaskSamples({"a": cast("Any", [{"x": 1, "labels": 2}])}, {"a": 4})
    assert dicts[0] == {"x": 1, "labels": 2, "tasks": 4}


def test_all_tasks_train_together_and_a_run_resumes(tmp_path: Path) -> None:
    first = bank()
    parts = data(first.model)
    history = fit(first.model, parts, parts, epochs=4, lr=1e-2, seed=1)
    assert history.val_accuracy is not None
    assert history.val_accuracy > 0.5
    assert first.task == "low"
    for name, part in parts.items():
        first.use(name)
        right = infer(first.model, part.tensors[0]).argmax(1) == part.tensors[1]
        assert float(right.float().mean()) > 0.5, name

    second = bank()
    with pytest.raises(KeyboardInterrupt):
        fit(second.model, parts, parts, epochs=4, lr=1e-2, seed=1, checkpoint=tmp_path / "run", on_epoch=_stop)
    third = bank()
    fit(third.model, parts, parts, epochs=4, lr=1e-2, seed=1, checkpoint=tmp_path / "run")
    first.use("low")
    assert state_bits(third.model) == state_bits(first.model)


def _stop(index: int, _: object) -> None:
    if index == 1:
        raise KeyboardInterrupt


def test_one_task_trains_alone_on_plain_data() -> None:
    found = bank()
    parts = data(found.model)
    found.use("low")
    before = infer(found.model, parts["low"].tensors[0])
    found.train_only("high")
    with refused(TrainingError, "only the task 'high' trains", "'low'", "bank.train_only(None)"):
        fit(found.model, {"low": data(found.model, 40)["low"]}, None, epochs=1)
    fit(found.model, parts["high"], None, epochs=2, lr=1e-2)
    found.train_only(None)
    found.use("low")
    assert torch.equal(infer(found.model, parts["low"].tensors[0]), before)


def test_what_is_wrong_is_refused() -> None:
    found = bank()
    parts = data(found.model)
    with refused(TrainingError, "fit: train: no such task", "'low', 'high'", "'middle'"):
        fit(found.model, {"middle": parts["low"]}, None, epochs=1)
    with refused(TrainingError, "fit: train['low']", "a DataLoader", "loader.dataset"):
        fit(found.model, {"low": DataLoader(parts["low"])}, None, epochs=1)  # type: ignore[dict-item]  # the point
    with refused(TrainingError, "fit: train is empty"):
        fit(found.model, {}, None, epochs=1)
    with refused(TrainingError, "need a model with a bank", "tasks=["):
        fit(nano(), parts, None, epochs=1)
    with refused(TrainingError, "needs an adapter", "a bank of tasks"):
        fit(found.model, parts, None, epochs=4, budget=6000)
    assert all_samples(found.model, parts["low"], "fit: train") is parts["low"]

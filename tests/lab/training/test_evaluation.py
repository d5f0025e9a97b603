"""Evaluation leaves the model unchanged and does not depend on the batch size."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tensorfact.errors import TrainingError
from tensorfact.lab import Evaluation, evaluate
from tests.helpers import refused, untouched
from tests.lab.training.runs import data, network


def test_evaluating_leaves_model_and_random_state_alone() -> None:
    model = network().train()
    cast("nn.BatchNorm1d", model[1]).eval()  # type: ignore[index]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with untouched(model):
        evaluate(model, data())
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_does_not_depend_on_the_batch_size() -> None:
    model = network()
    results = [evaluate(model, data(50), batch_size=size) for size in (1, 7, 50, 256)]
    assert all(result == pytest.approx(results[0], rel=1e-5) for result in results)


def test_evaluating_nothing_is_refused() -> None:
    with refused(TrainingError, "empty"):
        evaluate(network(), TensorDataset(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)))


def test_labels_are_class_indices() -> None:
    data = TensorDataset(torch.randn(4, 3), nn.functional.one_hot(torch.arange(4) % 2))
    with refused(TrainingError, "(batch,)"):
        evaluate(nn.Linear(3, 2), data, loss=lambda logits, labels: logits.mean())


def test_the_result_is_named_and_unpacks() -> None:
    result = evaluate(network(), data())
    accuracy, loss = result
    assert isinstance(result, Evaluation)
    assert (result.accuracy, result.loss) == (accuracy, loss) == (result[0], result[1])
    assert 0 <= accuracy <= 1 < 10 * loss

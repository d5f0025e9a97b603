"""Steps of a run: gradients accumulate, frozen statistics stay unchanged, a loss that is not finite raises."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tensorfact import Group, Rule, TensorizationPlan, TensorTrain, adapt, fit
from tensorfact.errors import DivergedError, TrainingError
from tests.helpers import bits, difference, refused
from tests.lab.training.runs import network, plain, run


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.SyncBatchNorm])
def test_a_frozen_batch_norm_does_not_drift(norm: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 6), norm(6), nn.Linear(6, 3))
    for parameter in list(model.parameters())[:4]:
        parameter.requires_grad_(False)
    before = {name: bits(buffer) for name, buffer in model.named_buffers()}
    run(model, epochs=2)
    assert {name: bits(buffer) for name, buffer in model.named_buffers()} == before


def test_a_batch_norm_that_trains_goes_on_counting() -> None:
    model = network()
    run(model, epochs=2)
    assert int(cast("Tensor", model.state_dict()["1.num_batches_tracked"])) > 0


def test_a_batch_norm_of_an_adapted_model_stands_still_too() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    plan = TensorizationPlan((Group("g", "in out", (Rule("0.weight", "out in"),)),))
    adapt(model, plan, TensorTrain(1))
    before = {name: bits(buffer) for name, buffer in model.named_buffers()}
    run(model, epochs=1)
    assert {name: bits(buffer) for name, buffer in model.named_buffers()} == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_refused_before_it_changes_a_parameter(value: float) -> None:
    model = network()
    with refused(DivergedError, "epoch 0", "lower lr or scale"):
        run(model, loss=lambda logits, _: logits.mean() * value)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("options", [{"lr": 1e6}, {"weight_decay": 1e6}, {"lr": 1e3, "weight_decay": 1e5}])
def test_a_run_that_explodes_says_so(options: Any) -> None:
    with refused(DivergedError, "lower lr or scale"):
        run(nn.Linear(6, 3), epochs=40, loss=lambda logits, _: logits.exp().mean(), **options)


def apart(found: nn.Module, expected: nn.Module) -> float:
    pairs = zip(found.parameters(), expected.parameters(), strict=True)
    return max(difference(one, two) for one, two in pairs)


@pytest.mark.parametrize("accumulation", [2, 3, 100])
def test_parts_of_a_batch_add_up_to_the_batch(accumulation: int) -> None:
    whole, parts = plain(), plain()
    expected = run(whole, batch_size=11)
    history = run(parts, batch_size=11, accumulation=accumulation)
    assert apart(parts, whole) < 1e-4
    for one, two in zip(history.epochs, expected.epochs, strict=True):
        assert one.train_loss == pytest.approx(two.train_loss, rel=1e-4)


def test_what_is_no_longer_finite_after_the_last_step_is_said() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return torch.full_like(gradients[0], math.nan)

    class Model(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return cast("torch.Tensor", Broken.apply(super().forward(x)))

    data = TensorDataset(torch.randn(4, 3), torch.arange(4) % 2)
    with refused(DivergedError, "no longer finite"):
        fit(Model(3, 2), data, None, epochs=1, batch_size=4)
    with refused(TrainingError, "fp16"):
        fit(nn.Linear(3, 2).half(), data, None, epochs=1)

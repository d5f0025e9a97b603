"""The optimizer of a run: a preconditioned one trains, resumes, and is refused where it has no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from tensorfact import CP, Format, MatrixBatch, TensorTrain, Tucker, adapt, fit
from tensorfact.errors import CheckpointError, TrainingError
from tensorfact.lab import digits
from tensorfact.lab.training.optimizers import fusible, optimizer_of
from tensorfact.lab.training.schedule import Schedule
from tests.bundled import nano, plan
from tests.helpers import refused, state_bits

DATA = digits(nano(), train=64, val=32)
SCHEDULE = Schedule(epochs=1, batch_size=8, lr=1e-3, weight_decay=0.0, warmup_epochs=0.0, seed=0)


def run(model: nn.Module, **options: Any) -> list[float]:
    settings = {"epochs": 3, "lr": 1e-2, "batch_size": 32, "seed": 0, "optimizer": "preconditioned", **options}
    history = fit(model, DATA.train, DATA.val, **settings)
    return [epoch.train_loss for epoch in history.epochs]


def adapted() -> nn.Module:
    model = nano()
    adapt(model, plan(), TensorTrain(4), seed=0)
    return model


def test_a_preconditioned_run_trains_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, stopped = adapted(), adapted()
    losses = run(whole)
    assert losses[-1] < losses[0]

    def stop(epoch: int, _: object) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(stopped, checkpoint=path, on_epoch=stop)
    resumed = adapted()
    assert run(resumed, checkpoint=path) == losses
    assert state_bits(resumed) == state_bits(whole)
    with refused(CheckpointError, "optimizer='adamw'"):
        run(adapted(), checkpoint=path, optimizer="adamw")


def test_rates_of_cores_are_multiples_there_too() -> None:
    model = nano()
    adapter = adapt(model, plan(), MatrixBatch(2), seed=0)
    start = adapter.named_cores()["encoder.A"].detach().clone()
    run(model, epochs=2, lr_factors={"A": 1e-12})
    assert torch.allclose(adapter.named_cores()["encoder.A"], start, atol=1e-6)


@pytest.mark.parametrize("format", [TensorTrain(4), Tucker(4), CP(4), MatrixBatch(4)], ids=str)
def test_the_parameters_of_every_format_are_updated_in_one_kernel(format: Format) -> None:
    model = nano()
    adapt(model, plan(), format, seed=0)
    trained = [(p, 1.0) for p in model.parameters() if p.requires_grad]
    assert optimizer_of(SCHEDULE, model, trained).defaults["fused"]


@pytest.mark.parametrize(
    "values", [torch.ones(6, 8)[:, ::2], torch.ones(4, 6).t(), torch.ones(6, 4, dtype=torch.complex64)]
)
def test_parameters_that_a_fused_kernel_updates_wrongly_are_updated_one_by_one(values: torch.Tensor) -> None:
    parameter = nn.Parameter(values)
    assert not fusible([parameter])
    assert fusible([nn.Parameter(values.real.contiguous())])
    assert not optimizer_of(SCHEDULE, nn.Identity(), [(parameter, 1.0)]).defaults["fused"]


def test_a_model_without_one_adapter_is_refused() -> None:
    with refused(TrainingError, 'optimizer="preconditioned" needs a model with an adapter', "adapt("):
        run(nano())
    part = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    model = cast("nn.Module", nn.Sequential(adapted(), part))
    with refused(TrainingError, "optimizer", "'adamw'", "'lion'"):
        run(model, optimizer="lion")

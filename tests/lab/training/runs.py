"""A small classifier, its data, and runs of it that can be compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tensorfact import Group, MatrixBatch, Rule, TensorizationPlan, adapt, fit
from tensorfact.common.progress import Progress
from tensorfact.lab import History
from tests.helpers import layers

EPOCHS = 5


def data(count: int = 48, seed: int = 0) -> TensorDataset:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x[:, :3].argmax(1))


def network(seed: int = 0) -> nn.Module:
    """Return a classifier with dropout and normalisation, so that random state and buffers matter."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
    )  # fmt: skip


def run(model: nn.Module, **options: Any) -> History:
    return fit(model, data(), data(24, seed=1), **{"epochs": EPOCHS, "batch_size": 16, "lr": 0.02, **options})


def numbers(history: History) -> list[tuple[float | None, ...]]:
    """Return everything of a history but its wall times."""
    return [(e.train_loss, e.val_loss, e.val_accuracy) for e in history.epochs]


def stopping_after(epochs: int) -> Progress:
    def progress(task: str, done: int, total: int) -> None:
        if done == epochs:
            raise KeyboardInterrupt

    return progress


def plain(seed: int = 0) -> nn.Module:
    """Return a classifier without random or running parts, for which parts of a batch are independent."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


class Parts(nn.Module):
    """Adapted parts, one for each scale, and a layer that is not adapted."""

    def __init__(self, *scales: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList(layers(2) for _ in scales)
        self.last = nn.Linear(6, 3)
        for part, scale in zip(self.parts, scales, strict=True):
            plan = TensorizationPlan((Group("g", "layer in out", (Rule("{layer}.weight", "out in"),)),))
            adapt(part, plan, MatrixBatch(2), scale=scale, seed=0)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = x + part(x)
        logits: Tensor = self.last(x)
        return logits

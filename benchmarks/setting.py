"""Where a benchmark runs: device, batch and dtype."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from tensorfact.lab.measure import ForwardPass, TrainingStep


@dataclasses.dataclass(frozen=True)
class Setting:
    """Device, batch, dtype and number of rounds of a benchmark.

    Args:
        device: `cpu` or `cuda`.
        batch: Images per step.
        autocast: Autocast dtype of matrix products; None for fp32.
        rounds: Maximum number of timed rounds of the methods with a target; the others get a third.
        patience: Time limit in seconds of the methods with a target; the others get a third.
    """

    device: str
    batch: int
    autocast: torch.dtype | None
    rounds: int
    patience: float = 90

    def data(self, batch: int | None = None) -> tuple[Tensor, Tensor]:
        """Return random images (batch, 3, 224, 224) and labels (batch,)."""
        count, generator = batch or self.batch, torch.Generator().manual_seed(0)
        x = torch.randn(count, 3, 224, 224, generator=generator)
        return x.to(self.device), torch.randint(0, 100, (count,), generator=generator).to(self.device)

    def step(self, model: nn.Module, batch: int | None = None) -> TrainingStep:
        """Return a training step of a model."""
        return TrainingStep(model, *self.data(batch), autocast=self.autocast)

    def forward(self, model: nn.Module, batch: int | None = None) -> ForwardPass:
        """Return a forward pass of a model."""
        return ForwardPass(model, self.data(batch)[0], autocast=self.autocast)

    def __str__(self) -> str:
        dtype = "fp32" if self.autocast is None else f"{str(self.autocast).removeprefix('torch.')} autocast"
        return f"batch {self.batch}, {self.device} {dtype}"


CPU = Setting("cpu", 4, None, 11)
CUDA = Setting("cuda", 64, torch.bfloat16, 30)

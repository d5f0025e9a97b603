"""Where a training run takes place: this process alone."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn


class TrainingEngine:
    """Single-process training with plain torch. Subclasses override what differs across processes.

    Args:
        model: The caller's model.
    """

    processes, process = 1, 0

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.module = model  # what holds the parameters that train
        self.run: Any = model  # what is called
        self.step: Any = None  # the optimizer that steps
        self.device = next((p.device for p in model.parameters() if p.requires_grad), torch.device("cpu"))

    @property
    def main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.process == 0

    def prepare(self, optimizer: torch.optim.Optimizer) -> None:
        """Get model and optimizer ready.

        Args:
            optimizer: Of parameters of `module`.
        """
        self.step = optimizer

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        torch.autograd.backward(loss)

    def apart(self) -> AbstractContextManager[object]:
        """Return a context in which gradients need not be added over processes: others of the batch follow."""
        return contextlib.nullcontext()

    def measuring(self) -> AbstractContextManager[object]:
        """Return a context for forward passes without gradients."""
        return torch.inference_mode()

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over processes."""
        return values

    def agree(self, buffers: list[Tensor]) -> None:
        """Give all processes the main process's numbers."""

    def settle(self) -> None:
        """Put what was gathered for a forward pass back into its place, so that parameters can be read and written."""

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a parameter, or what belongs to one, as an ordinary tensor. All processes must ask."""
        return tensor

    def like(self, tensor: Tensor, value: Tensor) -> Tensor:
        """Return an ordinary tensor's numbers as they lie in `tensor`."""
        return value

    def log(self, values: Mapping[str, float], index: int) -> None:
        """Tell trackers about an epoch."""

    def finish(self, state: Mapping[str, Tensor]) -> None:
        """Give the caller's model what was trained.

        Args:
            state: Parameters and buffers of `module`, by name.
        """

    def close(self) -> None:
        """Leave the caller's model as it came, but for its numbers."""

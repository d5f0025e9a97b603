"""Single-process training, and the methods that multi-process training overrides."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


class TrainingEngine:
    """Single-process training with plain torch. Subclasses override what differs across processes.

    Args:
        model: The model to train.
    """

    processes, process = 1, 0

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.module = model  # holds the parameters that train; under FSDP2 a sharded copy
        self.run = model  # called in the forward pass; `prepare` may wrap it
        self.step: torch.optim.Optimizer  # set by `prepare`, which may wrap it
        self.device = next((p.device for p in model.parameters() if p.requires_grad), torch.device("cpu"))

    @property
    def main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.process == 0

    def prepare(self, optimizer: torch.optim.Optimizer) -> None:
        """Prepare model and optimizer for training.

        Args:
            optimizer: Optimizer of parameters of `module`.
        """
        self.step = optimizer

    def exchange(self, optimizer: torch.optim.Optimizer) -> None:
        """Use another optimizer after `prepare`, since the model has other parameters; for a single process.

        Args:
            optimizer: Optimizer of parameters of `module`.
        """
        self.step = optimizer

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss."""
        torch.autograd.backward(loss)

    def apart(self) -> AbstractContextManager[object]:
        """Return a context that skips gradient synchronisation: more micro-batches of the batch follow."""
        return contextlib.nullcontext()

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over processes."""
        return values

    def agree(self, buffers: list[Tensor]) -> None:
        """Broadcast buffers from the main process, in place."""

    def settle(self) -> None:
        """Free parameters gathered for a forward pass, so that the shards can be read and written."""

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a parameter, or optimizer state of one, as an ordinary tensor. Every process must call it."""
        return tensor

    def like(self, tensor: Tensor, value: Tensor) -> Tensor:
        """Return the ordinary tensor `value` in the layout of `tensor`: sharded where that is."""
        return value

    def log(self, values: Mapping[str, float], index: int) -> None:
        """Log an epoch's metrics to trackers."""

    def finish(self, state: Mapping[str, Tensor]) -> None:
        """Copy the trained parameters into the caller's model.

        Args:
            state: Parameters and buffers of `module`, by name.
        """

    def close(self) -> None:
        """Undo what `prepare` did to the caller's model; trained values stay."""

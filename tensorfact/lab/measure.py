"""Measure the time of training steps, relative to the frozen floor, and their peak memory."""

from __future__ import annotations

import math
import statistics
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..model.head import head_parameters
from ..model.parameters import base_parameters
from ..network.cost import seconds_of
from .training.optimizers import fusible
from .training.predictions import logits_of


class MeasuredStep(Protocol):
    """A callable to be timed: a training step or a forward pass."""

    @property
    def device(self) -> torch.device:
        """Device on which the step runs."""

    def __call__(self) -> None:
        """Run the step once."""


class ForwardPass:
    """One forward pass in evaluation mode, without gradients, as a callable.

    Args:
        model: The model; switched to evaluation mode.
        x: Inputs (batch, ...).
        autocast: Autocast dtype of matrix products; default: no autocast.
    """

    def __init__(self, model: nn.Module, x: Tensor, *, autocast: torch.dtype | None = None) -> None:
        self.model, self.x, self.autocast = model.eval(), x, autocast

    @property
    def device(self) -> torch.device:
        """Device of the inputs."""
        return self.x.device

    def __call__(self) -> None:
        """Run the model once."""
        with torch.no_grad(), torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            self.model(self.x)


class TrainingStep:
    """One whole training step as a callable: forward, loss, backward, AdamW (fused where `fit` fuses it).

    Args:
        model: A model with parameters that require gradients; switched to training mode.
        x: Inputs (batch, ...).
        y: Class indices (batch,).
        autocast: Autocast dtype of matrix products; default: no autocast.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, *, autocast: torch.dtype | None = None) -> None:
        self.model, self.x, self.y, self.autocast = model.train(), x, y, autocast
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, fused=fusible(trained))

    @property
    def device(self) -> torch.device:
        """Device of the inputs."""
        return self.x.device

    def __call__(self) -> None:
        """Run the step once."""
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.loss())
        self.optimizer.step()

    def loss(self) -> Tensor:
        """Run the forward pass, and return the loss."""
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            return nn.functional.cross_entropy(logits_of(self.model(self.x)), self.y)

    def tensors(self) -> list[Tensor]:
        """Return the tensors that are kept between steps: model, gradients, optimiser state, data."""
        parameters = list(self.model.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        state = [t for values in self.optimizer.state.values() for t in values.values() if isinstance(t, Tensor)]
        return [*parameters, *self.model.buffers(), *gradients, *state, self.x, self.y]


def freeze_to_floor(model: nn.Module, first: str) -> None:
    """Make a model the frozen floor of step times: only the head trains, and gradients pass through every block.

    An adapter of the first block needs gradients through all later blocks. Here one small parameter causes them: the
    smallest one in the module of the first adapted parameter, in most models its bias.

    Args:
        model: The model; `requires_grad` of its parameters is changed in place.
        first: Name of the first parameter that an adapter would change.
    """
    parameters, head = base_parameters(model), head_parameters(model, True)
    module = first.rpartition(".")[0]
    beside = [name for name in parameters if name.rpartition(".")[0] == module]
    lowest = min(beside, key=lambda name: parameters[name].numel())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name == lowest or name in head)


def step_ratios(floor: MeasuredStep, steps: Mapping[str, MeasuredStep], *, rounds: int = 9) -> dict[str, float]:
    """Time steps as multiples of the floor, alternating in every round: floor, step, floor, step, ...

    Args:
        floor: The reference step, whose time counts as 1.
        steps: Steps by name.
        rounds: Number of timed rounds, after two rounds of warm-up.

    Returns:
        For every step the median, over the rounds, of its time divided by the mean of the floor times just before and
        after it.
    """
    return {name: statistics.median(values) for name, values in all_step_ratios(floor, steps, rounds=rounds).items()}


def all_step_ratios(
    floor: MeasuredStep,
    steps: Mapping[str, MeasuredStep],
    *,
    rounds: int = 9,
    warmup: int = 2,
    seconds: float = math.inf,
) -> dict[str, list[float]]:
    """Time steps as `step_ratios` does, and return the ratios of all rounds instead of their median.

    Args:
        floor: The reference step, whose time counts as 1.
        steps: Steps by name.
        rounds: Maximum number of timed rounds.
        warmup: Number of rounds that run before and are not timed.
        seconds: Time limit: no new round starts after it, once three rounds are timed.
    """
    start = time.perf_counter()
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + warmup):
        if number >= warmup + 3 and time.perf_counter() - start > seconds:
            break
        before = seconds_of(floor, floor.device)
        for name, step in steps.items():
            own, after = seconds_of(step, step.device), seconds_of(floor, floor.device)
            if number >= warmup:
                ratios[name].append(2 * own / (before + after))
            before = after
    return ratios


def peak_bytes(step: TrainingStep) -> int:
    """Measure the peak memory of tensors during a step, including model, optimiser and data.

    On a GPU it is the peak of CUDA's allocator. On the CPU the results of operators are counted while they exist;
    memory that an operator allocates and frees internally is not counted.

    Args:
        step: The step; run twice, since the first call creates the state of the optimiser.
    """
    step()
    device = step.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        peak: int = torch.cuda.max_memory_allocated(device)
        return peak
    live = LiveBytes()
    with live:
        for tensor in step.tensors():
            live.count(tensor)
        step()
    return live.peak


def kept_bytes(step: TrainingStep) -> int:
    """Measure the memory that a forward pass leaves for the backward pass, beside model, optimiser and data.

    Args:
        step: The step; of which only the forward pass runs.
    """
    if step.device.type == "cuda":
        before = torch.cuda.memory_allocated(step.device)
        loss = step.loss()
        return torch.cuda.memory_allocated(step.device) - before - loss.nbytes
    live = LiveBytes()
    with live:
        loss = step.loss()
    return live.now - loss.nbytes


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no annotations
    """Count the bytes of the storages that operators create, until each is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # its constructor neither
        self.now = self.peak = 0
        self._known: set[int] = set()

    def count(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, once, until it is freed."""
        if tensor.is_meta:  # has no memory
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return result

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

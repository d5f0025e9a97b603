"""Measure training steps: time as a multiple of the frozen floor, interleaved, and peak memory."""

from __future__ import annotations

import math
import statistics
import time
import weakref
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..model.head import head_parameters
from ..model.parameters import base_parameters
from ..network.cost import seconds_of


class MeasuredStep(Protocol):
    """Something to be timed: a training step, a forward pass."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def __call__(self) -> None:
        """Run it."""


class ForwardPass:
    """One forward pass in evaluation mode, without gradients, as a callable.

    Args:
        model: The model; put into evaluation mode.
        x: Inputs (batch, ...).
        autocast: The dtype to compute products in; by default, that of the model.
    """

    def __init__(self, model: nn.Module, x: Tensor, *, autocast: torch.dtype | None = None) -> None:
        self.model, self.x, self.autocast = model.eval(), x, autocast

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.x.device

    def __call__(self) -> None:
        """Run the model."""
        with torch.no_grad(), torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            self.model(self.x)


class TrainingStep:
    """One whole training step as a callable: forward, loss, backward, AdamW.

    Args:
        model: A model of which some parameters require gradients; put into training mode.
        x: Inputs (batch, ...).
        y: Class indices (batch,).
        autocast: The dtype to compute products in; by default, that of the model.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, *, autocast: torch.dtype | None = None) -> None:
        self.model, self.x, self.y, self.autocast = model.train(), x, y, autocast
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.x.device

    def __call__(self) -> None:
        """Run the step."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            loss = nn.functional.cross_entropy(self.model(self.x), self.y)
        torch.autograd.backward(loss)
        self.optimizer.step()

    def tensors(self) -> list[Tensor]:
        """Return what exists between steps: model, gradients, optimiser state, data."""
        parameters = list(self.model.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        state = [t for values in self.optimizer.state.values() for t in values.values() if isinstance(t, Tensor)]
        return [*parameters, *self.model.buffers(), *gradients, *state, self.x, self.y]


def freeze_to_floor(model: nn.Module, first: str) -> None:
    """Make a model the frozen floor: the head trains and gradients pass through every block, and nothing else.

    Whoever adapts the first block needs the gradients of all later ones. Here they are asked for by the smallest
    parameter beside the first adapted one, its bias in most models.

    Args:
        model: The model, changed in place.
        first: The name of the first parameter that an adapter would change.
    """
    parameters, head = base_parameters(model), head_parameters(model, True)
    module = first.rpartition(".")[0]
    beside = [name for name in parameters if name.rpartition(".")[0] == module]
    lowest = min(beside, key=lambda name: parameters[name].numel())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name == lowest or name in head)


def step_ratios(floor: MeasuredStep, steps: Mapping[str, MeasuredStep], *, rounds: int = 9) -> dict[str, float]:
    """Time steps against the floor: floor, step, floor, step and so on, in every round.

    Args:
        floor: The step that counts as 1.
        steps: Steps by name.
        rounds: How many rounds to time, after two that warm up.

    Returns:
        For every step the median over rounds of its time divided by the mean of the floor's before and after it.
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
    """Time steps against the floor as `step_ratios` does, and return the ratios of all rounds.

    Args:
        floor: The step that counts as 1.
        steps: Steps by name.
        rounds: How many rounds to time.
        warmup: How many rounds to run before.
        seconds: After so many seconds no round is begun, once there are three.
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
    """Measure the most memory that tensors take at once during a step: model, optimiser and data included.

    On a GPU the allocator tells. On the CPU every operator's results are counted while they live; what an operator
    allocates and frees inside itself is not seen.

    Args:
        step: The step; run twice, the first time to make the optimiser's state.
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


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no annotations
    """Counts the bytes of storages that operators make, for as long as each lives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor has its constructor
        self.now = self.peak = 0
        self._known: set[int] = set()

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until it is freed."""
        if tensor.is_meta:  # takes no memory
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return result

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

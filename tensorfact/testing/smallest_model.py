"""The smallest model whose weights form a tensor with given modes, to test a format in use."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..adapters import Adapter, Bank, Tasks, adapt
from ..formats import Format
from ..network import Mode
from ..plan import Group, Rule, TensorizationPlan
from ..plan.notation import mode_name, parse_axes

_NOISE = 0.3


class Layers(nn.Module):
    """One linear layer per coordinate of the stack modes, all applied to the same input.

    Args:
        modes: The tensor's modes, with at least one input and one output.
    """

    def __init__(self, modes: Sequence[Mode]) -> None:
        super().__init__()
        axes = {mode.name: parse_axes(mode.name, "a mode")[0] for mode in modes}
        self.sizes = {name: size for mode in modes for name, size in _sizes(axes[mode.name], mode.size)}
        by_side = {
            side: [axis for mode in modes if mode.side == side for axis in axes[mode.name]]
            for side in ("stack", "in", "out")
        }
        self.inputs, outputs = (self._product(by_side[side]) for side in ("in", "out"))
        self.layers = self._stacked(by_side["stack"], outputs)
        name = ".".join(["layers", *(f"{{{axis}}}" for axis in by_side["stack"]), "weight"])
        pattern = f"{mode_name(tuple(by_side['out']))} {mode_name(tuple(by_side['in']))}"
        free = {axis: self.sizes[axis] for side in ("in", "out") for axis in by_side[side]}
        arranged = " ".join(mode_name(axes[mode.name]) for mode in modes)
        self.plan = TensorizationPlan((Group("format", arranged, (Rule(name, pattern),), axis_sizes=free),))
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                generator = torch.Generator().manual_seed(number)
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def _product(self, axes: Sequence[str]) -> int:
        return int(torch.tensor([self.sizes[axis] for axis in axes]).prod())

    def _stacked(self, axes: Sequence[str], outputs: int) -> nn.Module:
        if not axes:
            with torch.random.fork_rng([]):
                return nn.Linear(self.inputs, outputs)
        return nn.ModuleList(self._stacked(axes[1:], outputs) for _ in range(self.sizes[axes[0]]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the concatenated outputs of all layers."""
        return torch.cat([layer(x) for layer in self.modules() if isinstance(layer, nn.Linear)], -1)


@dataclasses.dataclass(frozen=True)
class Routed:
    """What `Layers` compute on one route, with random factors that changed after a first pass.

    Args:
        output: The output.
        merged: The output after merging.
        gradients: Gradients of the input and of the trained cores, in one vector.
        numerical: Whether the gradients are those of finite differences.
    """

    output: Tensor
    merged: Tensor
    gradients: Tensor
    numerical: bool


def routes(format: Format, modes: Sequence[Mode]) -> dict[str, Routed] | None:
    """Return what `Layers` compute with a format, on every route.

    Args:
        format: The format.
        modes: The tensor's modes.

    Returns:
        The results by route; None if there are no inputs or no outputs.
    """
    if not {"in", "out"} <= {mode.side for mode in modes}:
        return None
    names: tuple[Literal["weight", "activation", "formed"], ...] = ("weight", "activation", "formed")
    return {route: _routed(format, modes, route) for route in names}


def _routed(format: Format, modes: Sequence[Mode], route: Literal["weight", "activation", "formed"]) -> Routed:
    model = Layers(modes).double().eval()
    adapter = adapt(model, model.plan, format, route=route, train_head=False, seed=0, check=False)
    x = _input(model).requires_grad_()
    model(x)  # what this pass forms of the factors must not outlive it
    _draw(adapter)
    inputs = [x, *(core for core in adapter.factors.parameters() if core.requires_grad)]
    with torch.enable_grad():
        output = model(x)
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
        gradients = torch.autograd.grad((output * weights).sum(), inputs)
        numerical = torch.autograd.gradcheck(lambda *_: model(x), inputs, fast_mode=True, raise_exception=False)
    with torch.no_grad():
        adapter.merge()
        merged = model(x)
    return Routed(output.detach(), merged, torch.cat([each.flatten() for each in gradients]), numerical)


def tasks_of_samples(format: Format, modes: Sequence[Mode], shared: bool) -> tuple[Tensor, Tensor] | None:
    """Return the output of `Layers` with a bank of three tasks for a mixed batch, and for each task alone.

    Args:
        format: The format.
        modes: The tensor's modes.
        shared: Whether the tasks share the first trained core.

    Returns:
        The output of the mixed batch, and the outputs of its samples one by one; None if there are no inputs or no
        outputs, or only one trained core that could be shared.
    """
    trained = [core.name for core in format.network(modes).cores if core.trained]
    if not {"in", "out"} <= {mode.side for mode in modes} or (shared and len(trained) < 2):
        return None
    model = Layers(modes).double().eval()
    tasks = Tasks(["a", "b", "c"], trained[:1] if shared else ())
    bank = adapt(model, model.plan, format, tasks=tasks, train_head=False, seed=0, check=False)
    _draw(bank)
    x, names = _input(model), ["b", "c", "a", "a", "b"]
    with torch.no_grad():
        with bank.batch(names):
            together = model(x)
        alone = []
        for at, name in enumerate(names):
            bank.use(name)
            alone.append(model(x[at : at + 1]))
    return together, torch.cat(alone)


def change_when_subtracted(format: Format, modes: Sequence[Mode]) -> float:
    """Return the change of the output of `Layers` by a fresh adapter with `subtract_start=True`.

    Args:
        format: The format.
        modes: The tensor's modes.
    """
    if not {"in", "out"} <= {mode.side for mode in modes}:
        return 0.0
    model = Layers(modes).eval().requires_grad_(False)
    with torch.no_grad():
        base = model(_input(model))
        adapt(model, model.plan, format, train_head=False, seed=0, check=False, subtract_start=True)
        return float((model(_input(model)) - base).abs().max())


def _draw(adapter: Adapter | Bank) -> None:
    """Draw all trained cores at random, including the one that starts at zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for core in adapter.factors.parameters():
            if core.requires_grad:
                core.copy_(_NOISE * torch.randn(core.shape, generator=generator))


def _input(model: Layers) -> Tensor:
    weight = next(model.parameters())
    return torch.randn(5, model.inputs, generator=torch.Generator().manual_seed(0)).to(weight.dtype)


def _sizes(axes: Sequence[str], size: int) -> list[tuple[str, int]]:
    """Return axis sizes: the size of the mode for its first axis, 1 for the others."""
    return [(axis, size if at == 0 else 1) for at, axis in enumerate(axes)]

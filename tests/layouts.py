"""Linear layers whose weights lie in a tensor in every way that matters to speed, and what tests ask of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tensorfact import CP, Adapter, Format, Group, MatrixBatch, Rule, TensorizationPlan, TensorTrain, Tucker, adapt
from tensorfact.adapters.increments import AnyIncrement
from tensorfact.adapters.increments.products import LinearProduct
from tests.helpers import difference, draw, layers, layers_plan, randomise

WIDTH = 4


class Side(nn.Module):
    """Layers side by side, each with a factor of its own, so that no gradient is another's."""

    def __init__(self, make: Callable[[], nn.Module], count: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make() for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([(k + 1) * layer(x) for k, layer in enumerate(self.layers)]).sum(0)


class Layout:
    """A kind of layer, and how its weight lies in a tensor."""

    def __init__(self, make: Callable[[], nn.Module], inputs: int, modes: str, pattern: str, **labels: Any) -> None:
        self.make, self.inputs = make, inputs
        self.plan = TensorizationPlan((Group("g", modes, (Rule("layers.{layer}.weight", pattern, **labels),)),))

    def adapted(
        self, kind: type[Format], dtype: torch.dtype = torch.float64, *, rank: int = 2, **options: Any
    ) -> tuple[Side, Adapter]:
        model = randomise(Side(self.make)).to(dtype)
        options = {"route": "activation", "scale": -0.5, "seed": 0, "check": False, **options}
        format = cast("Format", cast("Any", kind)(rank))
        adapter = cast("Adapter", adapt(model, self.plan, format, **cast("Any", options)))
        draw(adapter)
        return model, adapter

    def input(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(*shape, self.inputs, generator=generator, dtype=torch.float64).to(dtype)


LAYOUTS = {
    "plain": Layout(lambda: nn.Linear(WIDTH, 5), WIDTH, "layer in out", "out in"),
    "without a bias": Layout(lambda: nn.Linear(WIDTH, 5, bias=False), WIDTH, "layer in out", "out in"),
    "fused": Layout(
        lambda: nn.Linear(WIDTH, 3 * WIDTH), WIDTH, "layer role in out", "(role out) in", role=["q", None, "v"]
    ),
    "down": Layout(
        lambda: nn.Linear(2 * WIDTH, WIDTH), 2 * WIDTH, "layer role in out", "out (role in)", role=["d0", "d1"]
    ),
    "transposed": Layout(lambda: Conv1D(5, WIDTH), WIDTH, "layer in out", "in out"),
}
"""Two layers each; a matrix batch has blocks over the outputs of `fused`, and over the inputs of `down`."""

MERGED = Layout(lambda: nn.Linear(3, 3), 3, "layer (in out)", "out in")
"""One core has inputs and outputs: no format of this one has a narrow place."""

KINDS: list[type[Format]] = [TensorTrain, Tucker, CP, MatrixBatch]


def stored(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def cores_of(adapter: Adapter) -> dict[str, nn.Parameter]:
    return {f"tensorfact.{name}": parameter for name, parameter in adapter.named_parameters()}


def gradients(model: nn.Module, output: Tensor, to: Tensor, **options: Any) -> dict[str, Tensor]:
    """Return the gradients of what requires them, for one gradient of the output."""
    model.zero_grad()
    torch.autograd.backward(output, to, **options)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def weights(output: Tensor) -> Tensor:
    """Return a gradient of the output that is no constant."""
    numbers = torch.linspace(-1, 1, output.numel(), dtype=torch.float64)
    return numbers.reshape(output.shape).to(output.dtype)


def alike(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-10) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert difference(found[name], expected[name]) < tolerance, name


def run(model: nn.Module, x: Tensor) -> Tensor:
    """Return the output without gradients; the mode is not set, which would form anew."""
    with torch.no_grad():
        return cast("Tensor", model(x))


def merged(model: nn.Module, x: Tensor) -> Tensor:
    """Return what the model is to give for what its cores hold now."""
    other: Any = copy.deepcopy(model)
    other.tensorfact.merge()
    return run(other, x)


def forms(adapter: Adapter) -> list[object]:
    """Return what was formed so far in the pass that is in progress; nothing outside of one."""
    return list((adapter._links.passes.forms or {}).values())


def stack(depth: int = 4, width: int = 6, **options: Any) -> tuple[nn.Sequential, Adapter, Tensor]:
    """Return layers one after another, adapted in float64, and an input."""
    model = randomise(layers(depth, width)).double()
    options = {"route": "activation", "seed": 0, "check": False, **options}
    adapter = adapt(model, layers_plan(), TensorTrain(2), **options)
    draw(adapter)
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return model, adapter, x


def applied(increment: AnyIncrement, x: Tensor) -> Tensor:
    """Apply an increment, as a layer of zeros without a bias does."""
    view = increment.view
    zero = torch.zeros(view.shape, dtype=x.dtype)
    return increment.linear(LinearProduct(view.transposed), x, zero, None, 1.0)

"""Gradients of matrices that layers share are those of autograd, in whatever way backward passes are run."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tensorfact import (
    CP,
    Adapter,
    Format,
    Group,
    MatrixBatch,
    Rule,
    TensorizationPlan,
    TensorTrain,
    Tucker,
    adapt,
    plan_by_shape,
)
from tensorfact.adapters.options import Route
from tensorfact.lab import nano
from tests.helpers import difference
from tests.kernels import Kernels

FORMATS = [TensorTrain(3), Tucker(3), CP(3), MatrixBatch(2)]
X = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def adapted(format: Format, route: Literal["auto", "weight"] = "auto") -> tuple[nn.Module, Adapter, list[nn.Parameter]]:
    """Return the bundled model with trained factors, and its cores."""
    model = nano().double()
    adapter = adapt(model, format=format, route=route, seed=0)
    cores = [parameter for name, parameter in model.named_parameters() if "tensorfact" in name]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for core in cores:
            core.add_(torch.randn(core.shape, generator=generator, dtype=torch.float64) * 0.05)
    return model, adapter, cores


def expected(format: Format) -> list[Tensor]:
    """Return the gradients of the route that forms each weight, where no layer shares a matrix."""
    model, _, cores = adapted(format, "weight")
    return list(torch.autograd.grad(model(X).square().sum(), cores))


def same(found: list[Tensor | None], wanted: list[Tensor], times: float = 1.0) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one is not None
        assert difference(one, times * other) < 1e-9 * (1 + float(other.abs().max()))


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_gradients_are_those_of_formed_weights_once_and_twice(format: Format) -> None:
    wanted = expected(format)
    model, _, cores = adapted(format)
    loss = model(X).square().sum()
    torch.autograd.backward(loss, retain_graph=True)
    same([core.grad for core in cores], wanted)
    torch.autograd.backward(loss)
    same([core.grad for core in cores], wanted, 2)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_a_pass_that_ends_before_the_cores_leaves_nothing_behind(format: Format) -> None:
    model, _, cores = adapted(format)
    x = X.clone().requires_grad_()
    loss = model(x).square().sum()
    (to_x,) = torch.autograd.grad(loss, [x], retain_graph=True)
    assert to_x.abs().max() > 0
    torch.autograd.backward(loss, retain_graph=True, inputs=[cores[0]])
    same([cores[0].grad], expected(format)[:1])
    same(list(torch.autograd.grad(loss, cores)), expected(format))


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_one_core_alone_may_train(format: Format) -> None:
    wanted = expected(format)
    for at in range(len(wanted)):
        model, _, cores = adapted(format)
        for place, core in enumerate(cores):
            core.requires_grad_(place == at)
        torch.autograd.backward(model(X).square().sum())
        same([cores[at].grad], [wanted[at]])


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_blocks_give_the_same_gradients(reentrant: bool) -> None:
    wanted = expected(TensorTrain(3))
    model, _, cores = adapted(TensorTrain(3))
    for block in model.blocks:  # type: ignore[union-attr]
        plain = block.forward
        block.forward = lambda x, plain=plain, **_: checkpoint(plain, x, use_reentrant=reentrant)
    x = X.clone().requires_grad_()
    torch.autograd.backward(model(x).square().sum())
    same([core.grad for core in cores], wanted)


def test_layers_add_in_their_products() -> None:
    model, _, cores = adapted(TensorTrain(3))
    loss = model(X).square().sum()
    with Kernels() as kernels:
        torch.autograd.backward(loss)
    plain, depth = nano().double(), 6
    loss = plain.requires_grad_()(X.clone().requires_grad_()).square().sum()
    with Kernels() as without:
        torch.autograd.backward(loss)
    assert kernels.calls["add"] - without.calls["add"] < depth  # autograd would add 4 gradients a block
    assert all(core.grad is not None for core in cores)


class Conditioned(nn.Module):
    """A layer that is called outside of the checkpoint whose function uses its output."""

    def __init__(self) -> None:
        super().__init__()
        self.kv, self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        kv = self.kv(context)
        x = torch.tanh(self.a(x))
        x = checkpoint(lambda t: torch.tanh(self.b(t)) * kv, x, use_reentrant=True)
        return torch.tanh(self.c(x))


def test_a_backward_pass_inside_another_has_a_sum_of_its_own() -> None:
    found: dict[Route, list[Tensor]] = {}
    routes: tuple[Route, ...] = ("weight", "activation", "formed")
    for route in routes:
        torch.manual_seed(0)
        model = Conditioned().double()
        plan = TensorizationPlan((Group("g", "layer in out", (Rule("{layer}.weight", "out in"),)),))
        adapter = adapt(model, plan, TensorTrain(2), route=route, scale=1.0, train_head=False, seed=0, check=False)
        cores = list(adapter.parameters())
        with torch.no_grad():
            for core in cores:
                core.normal_()
        x, context = torch.randn(2, 5, 8, dtype=torch.float64)
        torch.autograd.backward(model(x.requires_grad_(), context).square().sum())
        found[route] = [core.grad for core in cores if core.grad is not None]
    for route in routes[1:]:
        assert len(found[route]) == 3
        assert all(difference(a, b) < 1e-12 for a, b in zip(found[route], found["weight"], strict=True)), route


def test_two_threads_differentiate_one_graph() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(8))).double()
    adapter = adapt(model, plan_by_shape(model), TensorTrain(4), scale=1.0, train_head=False, seed=0, check=False)
    cores = list(adapter.parameters())
    with torch.no_grad():
        for core in cores:
            core.normal_(0, 0.1)
    y = model[:8](torch.randn(256, 64, dtype=torch.float64))
    losses = y.square().sum(), y.sin().sum()
    expected = [torch.autograd.grad(loss, cores, retain_graph=True) for loss in losses]
    for _ in range(50):
        found: list[Sequence[Tensor]] = [(), ()]

        def work(at: int, found: list[Sequence[Tensor]] = found) -> None:
            found[at] = torch.autograd.grad(losses[at], cores, retain_graph=True)

        threads = [threading.Thread(target=work, args=(at,)) for at in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for own, right in zip(found, expected, strict=True):
            assert len(own) == len(right)
            assert all(difference(a, b) < 1e-12 for a, b in zip(own, right, strict=True))

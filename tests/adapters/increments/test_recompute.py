"""Recomputed inputs: the same results with less memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from tensorfact import Adapter, Group, Rule, TensorizationPlan, TensorTrain, adapt
from tensorfact.adapters.increments.recompute import CHEAP, CHEAP_IN_TIMM
from tests.helpers import draw, randomise
from tests.layouts import alike, gradients, weights

KINDS = (*CHEAP, *(getattr(timm.layers, name) for name in CHEAP_IN_TIMM))


class Between(nn.Module):
    """A linear layer, a cheap module, and a linear layer that would save the output of the cheap one."""

    def __init__(self, cheap: Callable[[Any, Tensor], Tensor], module: nn.Module | None = None, width: int = 6) -> None:
        super().__init__()
        self.cheap, self.module = cheap, module
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.layers[1](self.cheap(self.module, self.layers[0](x))))


PLAN = TensorizationPlan((Group("g", "layer in out", (Rule("layers.{layer}.weight", "out in"),)),))


def between(
    cheap: Callable[[Any, Tensor], Tensor], module: nn.Module | None = None, *, recompute: bool, **options: Any
) -> Between:
    model = randomise(Between(cheap, copy.deepcopy(module))).double()
    options = {"route": "activation", "seed": 0, "check": False, **options}
    draw(adapt(model, PLAN, TensorTrain(2), recompute=recompute, **options))
    return model


def _call(module: nn.Module, x: Tensor) -> Tensor:
    return cast("Tensor", module(x))


def _keyword(module: nn.Module, x: Tensor) -> Tensor:
    return cast("Tensor", module(input=x))


def _output_changed(module: nn.Module, x: Tensor) -> Tensor:
    return cast("Tensor", module(x)).mul_(3.0)


def _part_changed(module: nn.Module, x: Tensor) -> Tensor:
    y = cast("Tensor", module(x))
    y[:, :2] += 1.0
    return y


def _input_changed(module: nn.Module, x: Tensor) -> Tensor:
    """Allowed if the module saves its output, not its input."""
    x = x + 0.0
    y = cast("Tensor", module(x))
    x.mul_(3.0)
    return y


def _functional(module: nn.Module, x: Tensor) -> Tensor:
    return F.gelu(x)


def _twice(module: nn.Module, x: Tensor) -> Tensor:
    return cast("Tensor", module(module(x)))


def _viewed(module: nn.Module, x: Tensor) -> Tensor:
    return cast("Tensor", module(x).view(1, *x.shape)[0].clone())


def _without(module: nn.Module, x: Tensor) -> Tensor:
    """The cheap module is detached from the graph."""
    with torch.no_grad():
        return cast("Tensor", module(x))


def cheaply(cheap: Any) -> nn.Module:
    """Return a module of a cheap class, for six features."""
    groups = (2,) if cheap is nn.GroupNorm else ()
    return cast("nn.Module", cheap(*groups, *((6,) if "Norm" in cheap.__name__ else ())))


USES: list[Any] = [
    *(pytest.param(_call, cheaply(cheap), id=f"{cheap.__module__.split('.')[0]} {cheap.__name__}") for cheap in KINDS),
    pytest.param(_call, nn.GELU("tanh"), id="GELU tanh"),
    pytest.param(_call, nn.ReLU(inplace=True), id="ReLU in place"),
    pytest.param(_call, nn.ELU(inplace=True), id="ELU in place"),
    pytest.param(_call, nn.Sequential(nn.LayerNorm(6), nn.ReLU(inplace=True)), id="norm, then ReLU in place"),
    pytest.param(_call, nn.Sequential(nn.LayerNorm(6), nn.GELU()), id="norm, then GELU"),
    pytest.param(_call, nn.Sequential(nn.GELU(), nn.Dropout(0.0)), id="GELU, then dropout of nothing"),
    pytest.param(_keyword, nn.GELU(), id="by keyword"),
    pytest.param(_output_changed, nn.SiLU(), id="output changed"),
    pytest.param(_part_changed, nn.SiLU(), id="part of the output changed"),
    pytest.param(_input_changed, nn.ReLU(), id="input of ReLU changed"),
    pytest.param(_input_changed, nn.Tanh(), id="input of Tanh changed"),
    pytest.param(_functional, None, id="functional"),
    pytest.param(_twice, nn.GELU(), id="called twice"),
    pytest.param(_viewed, nn.GELU(), id="viewed"),
    pytest.param(_without, nn.GELU(), id="without gradients"),
]  # fmt: skip


def _inputs() -> Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize(("use", "module"), USES)
def test_computing_again_changes_no_number(use: Any, module: nn.Module | None) -> None:
    x, results = _inputs(), []
    for recompute in (False, True):
        model = between(use, module, recompute=recompute)
        output = model(x)
        results.append((output, gradients(model, output, weights(output))))
    (expected, wanted), (found, own) = results
    assert torch.equal(found, expected)
    alike(own, wanted)


def kept_bytes(call: Callable[[], Tensor]) -> int:
    """Return the bytes of the distinct storages that a graph keeps."""
    held: dict[int, tuple[Tensor, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = call()
    assert output.requires_grad
    return sum(size for _, size in held.values())


@pytest.mark.parametrize("cheap", KINDS)
def test_computing_again_never_keeps_more(cheap: type[nn.Module]) -> None:
    x = _inputs()
    usual, again = (between(_call, cheaply(cheap), recompute=recompute) for recompute in (False, True))
    assert kept_bytes(lambda: again(x)) <= kept_bytes(lambda: usual(x))


@pytest.mark.parametrize("module", [nn.LayerNorm(6), nn.GELU(), nn.SiLU()], ids=lambda m: type(m).__name__)
def test_computing_again_keeps_one_activation_less(module: nn.Module) -> None:
    x = _inputs()
    usual, again = (between(_call, module, recompute=recompute) for recompute in (False, True))
    assert kept_bytes(lambda: usual(x)) - kept_bytes(lambda: again(x)) == x.nbytes


def _doubled(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
    return 2 * output


class Dropping(nn.LayerNorm):
    """A normalisation that is not deterministic; timm has such classes."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5)


def test_a_subclass_that_draws_numbers_is_not_computed_again() -> None:
    x, results = _inputs(), []
    for recompute in (False, True):
        model = between(_call, Dropping(6), recompute=recompute)
        torch.manual_seed(0)
        output = model(x)
        results.append((output, gradients(model, output, weights(output))))
    (expected, wanted), (found, own) = results
    assert torch.equal(found, expected)
    alike(own, wanted)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hook_that_changes_an_output_is_computed_again_or_kept(when: str) -> None:
    """Another forward hook, registered before or after the model was adapted."""
    x, results = _inputs(), []
    for recompute in (False, True):
        model = randomise(Between(_call, nn.GELU())).double()
        assert model.module is not None
        if when == "before":
            model.module.register_forward_hook(_doubled)
        adapter = adapt(model, PLAN, TensorTrain(2), recompute=recompute, route="activation", seed=0, check=False)
        draw(adapter)
        if when == "after":
            model.module.register_forward_hook(_doubled)
        output = model(x)
        results.append((output, gradients(model, output, weights(output))))
    (expected, wanted), (found, own) = results
    assert torch.equal(found, expected)
    alike(own, wanted)


def test_computing_again_gives_the_gradient_of_an_autocast_layer() -> None:
    x, results = _inputs().float(), []
    for recompute in (False, True):
        model = between(_call, nn.Sequential(nn.LayerNorm(6), nn.GELU()), recompute=recompute).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(x)
        results.append((output, gradients(model, output, weights(output))))
    (expected, wanted), (found, own) = results
    assert torch.equal(found, expected)
    alike(own, wanted, 1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
def test_computing_again_inside_a_checkpoint_gives_the_same_gradients(reentrant: bool) -> None:
    model, x = between(_call, nn.GELU(), recompute=True), _inputs().requires_grad_()
    expected = gradients(model, model(x), weights(x))
    output = checkpoint(model, x, use_reentrant=reentrant)
    alike(gradients(model, output, weights(x)), expected)


def test_the_hooks_are_gone_with_the_adapter() -> None:
    model = between(_call, nn.Sequential(nn.LayerNorm(6), nn.GELU()), recompute=True)
    assert any(module._forward_hooks for module in model.modules())
    cast("Adapter", model.tensorfact).remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_parameters_that_were_swapped_in_are_those_that_compute_again() -> None:
    x, found = _inputs(), []
    for recompute in (False, True):
        model = between(_call, nn.LayerNorm(6), recompute=recompute)
        swapped = {n: p.detach() * 2 for n, p in model.named_parameters() if n.startswith("module.")}
        output = torch.func.functional_call(model, swapped, (x,))
        found.append(gradients(model, output, weights(output)))
    alike(found[1], found[0])


def test_a_normalisation_changed_before_the_backward_pass_is_refused() -> None:
    model = between(_call, nn.LayerNorm(6), recompute=True)
    output = model(_inputs())
    with torch.no_grad():
        cast("nn.LayerNorm", model.module).weight.mul_(3.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_an_input_made_in_inference_mode_is_kept() -> None:
    with torch.inference_mode():
        x = _inputs()
    plan = TensorizationPlan((Group("g", "layer in out", (Rule("1.weight", "out in", layer=0),)),))
    model = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6)).double()
    adapt(model, plan, TensorTrain(2), recompute=True, route="activation")
    model(x).sum().backward()

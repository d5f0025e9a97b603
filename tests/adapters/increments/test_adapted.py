"""A linear layer with an increment: first and second gradients on every route."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tensorfact import Format, Group, MatrixBatch, Rule, TensorizationPlan, TensorTrain, adapt
from tensorfact.formats import Started
from tests.helpers import TOLERANCE, difference, draw, infer
from tests.layouts import KINDS, LAYOUTS, MERGED, Layout, Side, alike, cores_of, gradients, stored, weights


@pytest.mark.sampled(5)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", [TensorTrain, MatrixBatch])
@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_and_their_gradients_are_those_of_differences(name: str, kind: type[Format], recompute: bool) -> None:
    """Gradients of the input, the base weights and biases, and every core."""
    layout = LAYOUTS[name]
    model, adapter = layout.adapted(kind)
    root: nn.Module = model
    if recompute:
        adapter.remove()
        root = nn.Sequential(nn.Tanh(), model)
        group = layout.plan.groups[0]
        rule = group.rules[0]
        labels = dict(rule.coordinates)
        moved = Group("g", group.modes, (Rule(f"1.{rule.param}", rule.pattern, **cast("Any", labels)),))
        plan = TensorizationPlan((moved,))
        format = cast("Format", cast("Any", kind)(2))
        adapter = adapt(root, plan, format, route="activation", seed=0, check=False, recompute=True)
        draw(adapter, size=0.6)
    assert all(slot.increment.kind.halves for slot in adapter._slots.values())
    names = list(stored(root))

    def call(x: Tensor, *tensors: Tensor) -> Tensor:
        # clones, because gradcheck changes its inputs through `.data`, which torch does not count
        state = {name: tensor.clone() for name, tensor in zip(names, tensors, strict=True)}
        return cast("Tensor", torch.func.functional_call(root, state, (x,)))

    operands = [layout.input(2), *stored(root).values()]
    operands = [tensor.clone().requires_grad_() for tensor in operands]
    assert _functions(call(*operands)) >= {"AdaptedLayerBackward", "_FormBackward"}
    assert torch.autograd.gradcheck(call, operands)
    assert torch.autograd.gradgradcheck(call, operands)


@pytest.mark.parametrize("frozen", ["A", "B"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_one_frozen_side_leaves_all_second_gradients_and_no_input_is_kept_for_it(name: str, frozen: str) -> None:
    layout = LAYOUTS[name]
    starts: dict[str, Any] = {"A": "zero", "B": "normal"} if frozen == "B" else {}
    model, adapter = layout.adapted(cast("Any", lambda rank: Started(MatrixBatch(rank), starts, frozen=[frozen])))
    trained = {name: core for name, core in cores_of(adapter).items() if core.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)

    def call(x: Tensor, *cores: Tensor) -> Tensor:
        state = {name: core.clone() for name, core in zip(trained, cores, strict=True)}
        return cast("Tensor", torch.func.functional_call(model, state, (x,)))

    x = layout.input(2).requires_grad_()
    operands = [x, *(core.detach().clone().requires_grad_() for core in trained.values())]
    assert torch.autograd.gradgradcheck(call, operands)
    # a loss that is linear in the output: its second derivatives come through the narrow product alone
    assert torch.autograd.gradgradcheck(lambda *given: call(*given).sum(), operands, check_batched_grad=True)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)
    assert any(tensor is x for tensor in kept) == (frozen == "B")


def test_a_layer_without_frozen_cores_has_one_output() -> None:
    model, _ = LAYOUTS["plain"].adapted(TensorTrain)
    output = model.layers[0](LAYOUTS["plain"].input(2).requires_grad_())
    seen: list[tuple[Tensor, ...]] = []
    output.grad_fn.register_prehook(seen.append)
    output.sum().backward()
    assert [len(gradients) for gradients in seen] == [1]


def _functions(output: Tensor) -> set[str]:
    """Return the names of the autograd functions that computed a tensor."""
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return {type(node).__name__ for node in seen}


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*LAYOUTS, "merged"])
def test_every_route_is_as_exact_as_the_dtype(name: str, kind: type[Format], dtype: torch.dtype) -> None:
    """Activation, weight, and plain composed operations, against float64: the output, and every core's gradient."""
    layout = LAYOUTS.get(name, MERGED)
    rank = 1 if layout is MERGED and kind is MatrixBatch else 2
    model, adapter = layout.adapted(kind, dtype, rank=rank)
    x = layout.input(2, 5, dtype=dtype)
    exact, exactly = layout.adapted(kind, torch.float64, rank=rank, route="weight")
    exact.load_state_dict(model.state_dict())
    expected = exact(x.double())
    to = (weights(expected).abs() + 0.5).to(dtype).double()  # of one sign: sums of bf16 lose what cancels
    wanted = gradients(exact, expected, to)
    assert wanted.keys() == cores_of(exactly).keys()

    other, _ = layout.adapted(kind, dtype, rank=rank, route="weight")
    for called in (model, other):
        output = called(x)
        assert output.dtype == dtype
        assert difference(output, expected) < TOLERANCE[dtype]
        alike(gradients(called, output, to.to(dtype)), wanted, TOLERANCE[dtype])
    assert difference(infer(model, x), expected) < TOLERANCE[dtype]

    def loss(cores: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        output = torch.func.functional_call(model, cores, (x,))
        return (output.double() * to).sum(), output

    cores = {name: core.detach() for name, core in cores_of(adapter).items()}
    found, output = torch.func.grad(loss, has_aux=True)(cores)
    assert output.dtype == dtype
    assert difference(output, expected) < TOLERANCE[dtype]
    alike(found, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*LAYOUTS, "merged"])
def test_a_transform_over_samples_gives_the_gradient_of_each(name: str, kind: type[Format]) -> None:
    layout = LAYOUTS.get(name, MERGED)
    model, adapter = layout.adapted(kind, rank=1)
    xs = layout.input(3, 2)
    cores = {name: core.detach() for name, core in cores_of(adapter).items()}

    def loss(cores: dict[str, Tensor], x: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(model, cores, (x,))
        return (output * weights(output)).sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(cores, xs)
    for at, x in enumerate(xs):
        output = model(x)
        alike({n: g[at] for n, g in each.items()}, gradients(model, output, weights(output)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_an_input_may_have_any_shape_and_strides(name: str, kind: type[Format]) -> None:
    layout = LAYOUTS[name]
    model, _ = layout.adapted(kind, rank=1)
    x = layout.input(2, 3)
    inputs = [x[0, 0], x[0], x, x[:0], x[:1].expand(4, 3, -1), x.transpose(0, 1), x.flip(0)[::2]]
    inputs += [x.permute(2, 0, 1).contiguous().permute(1, 2, 0), x[:, None].expand(2, 2, 3, -1)]
    for given_ in inputs:
        if isinstance(model.layers[0], Conv1D) and not given_.numel():
            continue  # Conv1D itself cannot infer a size of -1 there
        exact = given_.detach().requires_grad_()
        copied = given_.detach().clone().requires_grad_()
        expected = sum((k + 1) * _plainly(model, k, copied) for k in range(2))
        assert isinstance(expected, Tensor)
        output = model(exact)
        assert output.shape == infer(model, exact).shape == expected.shape
        if expected.numel():
            assert difference(output, expected) < 1e-10
            assert difference(infer(model, exact), expected) < 1e-10
        (found,) = torch.autograd.grad(output, exact, weights(output))
        (wanted,) = torch.autograd.grad(expected, copied, weights(expected))
        assert found.shape == wanted.shape
        assert not wanted.numel() or difference(found, wanted) < 1e-10


def _plainly(model: Side, at: int, x: Tensor) -> Tensor:
    """Return the output of a plain layer with the effective weight."""
    layer: Any = model.layers[at]
    weight = layer.weight.detach()
    return F.linear(x, weight.t() if isinstance(layer, Conv1D) else weight, layer.bias)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_core_gets_no_gradient_and_leaves_the_others_theirs(kind: type[Format]) -> None:
    layout = LAYOUTS["fused"]
    model, adapter = layout.adapted(kind)
    x = layout.input(3)
    wanted = gradients(model, model(x), weights(model(x)))
    for frozen, core in cores_of(adapter).items():
        core.requires_grad_(False)
        output = model(x)
        assert "AdaptedLayerBackward" in _functions(output)  # also if only some operands have a gradient
        alike(gradients(model, output, weights(output)), {n: g for n, g in wanted.items() if n != frozen})
        core.requires_grad_(True)
    output = model(x)
    alike(gradients(model, output, weights(output)), wanted)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_base_weights_and_the_input_get_the_gradients_of_the_merged_model(name: str) -> None:
    layout = LAYOUTS[name]
    model, _ = layout.adapted(TensorTrain)
    model.layers.requires_grad_(True)
    x = layout.input(3).requires_grad_()
    other: Any = copy.deepcopy(model)
    other.tensorfact.merge()
    y = x.detach().clone().requires_grad_()
    output, expected = model(x), other(y)
    to = weights(expected)
    wanted = gradients(other, expected, to)
    found = {n: g for n, g in gradients(model, output, to).items() if not n.startswith("tensorfact.")}
    alike(found, {n: g for n, g in wanted.items() if not n.startswith("tensorfact.")})
    assert x.grad is not None
    assert y.grad is not None
    assert difference(x.grad, y.grad) < 1e-10


@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_a_wide_layer_takes_any_number_of_tokens(tokens: int) -> None:
    layer = Layout(lambda: nn.Linear(640, 640), 640, "layer in out", "out in")
    model, adapter = layer.adapted(TensorTrain)
    model(layer.input(tokens)).sum().backward()
    assert all(core.grad is not None and bool(core.grad.isfinite().all()) for core in adapter.parameters())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_a_nested_input_is_taken_row_by_row(layout: torch.layout) -> None:
    layer = LAYOUTS["plain"]
    model, _ = layer.adapted(TensorTrain)
    linear = cast("nn.Linear", model.layers[0])
    rows = [layer.input(2), layer.input(3)]
    with torch.no_grad():
        found = linear(torch.nested.nested_tensor(rows, layout=layout))
        for own, row in zip(found.unbind(), rows, strict=True):
            assert difference(own, linear(row)) < 1e-12


INSIDE: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": lambda y: F.relu(y, inplace=True),
    "SiLU": lambda y: F.silu(y, inplace=True),
    "add": lambda y: y.add_(1).mul_(2),
    "write": lambda y: y.index_fill_(-1, torch.tensor([0]), 0.0),
}


@pytest.mark.parametrize("change", INSIDE)
@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 5, 6), (2, 3, 4, 6)], ids=len)
@pytest.mark.parametrize("subtract_start", [False, True])
def test_outputs_may_be_changed_in_place(shape: tuple[int, ...], route: Any, change: str, subtract_start: bool) -> None:
    """As those of a plain layer may: by an activation function, or a residual that is added."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    plan = TensorizationPlan((Group("g", "layer in out", (Rule("{layer}.weight", "out in"),)),))
    adapter = adapt(model, plan, TensorTrain(2), route=route, train_head=False, subtract_start=subtract_start, seed=0)
    draw(adapter)
    x, found = torch.randn(shape), []
    for copied in (False, True):
        y = model[0](x)
        y = INSIDE[change](y.clone() if copied else y)
        adapter.zero_grad()
        torch.autograd.backward(model[1](y).square().sum())
        found.append([core.grad for core in adapter.parameters() if core.grad is not None])
    assert found[0]
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))

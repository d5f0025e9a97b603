"""What is formed of the factors: once for each pass through the model, and never kept after it."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tensorfact import Adapter, MatrixBatch
from tensorfact.adapters.increments.cache import composable
from tests.helpers import TOLERANCE, difference
from tests.layouts import LAYOUTS, alike, cores_of, forms, gradients, merged, run, stack, weights


@pytest.mark.parametrize("tracked", [True, False])
def test_one_forward_pass_over_many_layers_forms_once(tracked: bool) -> None:
    model, adapter, x = stack()
    seen: list[list[object]] = []
    for layer in list(model)[:-1]:
        layer.register_forward_hook(lambda *_: seen.append(forms(adapter)))
    with torch.set_grad_enabled(tracked):
        model(x)
    assert len(seen) == 4
    assert all(len(each) == 1 and each[0] is seen[0][0] for each in seen)
    assert forms(adapter) == []


def _step(model: nn.Module, adapter: Adapter) -> None:
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    for parameter in adapter.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def _copy(model: nn.Module, adapter: Adapter) -> None:
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(2 * parameter)


def _one_copy(model: nn.Module, adapter: Adapter) -> None:
    with torch.no_grad():
        list(adapter.parameters())[-1].copy_(torch.ones(()))


def _load(model: nn.Module, adapter: Adapter) -> None:
    model.load_state_dict({n: 2 * t if n in cores_of(adapter) else t for n, t in model.state_dict().items()})


def _load_assigned(model: nn.Module, adapter: Adapter) -> None:
    state = {n: 2 * t if n in cores_of(adapter) else t for n, t in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def _data(model: nn.Module, adapter: Adapter) -> None:
    for parameter in adapter.parameters():
        parameter.data = 2 * parameter.data


def _dtype(model: nn.Module, adapter: Adapter) -> None:
    model.to(torch.float32)


def _vector(model: nn.Module, adapter: Adapter) -> None:
    parameters = list(adapter.parameters())
    nn.utils.vector_to_parameters(2 * nn.utils.parameters_to_vector(parameters).detach(), parameters)


def _initialised(model: nn.Module, adapter: Adapter) -> None:
    for parameter in adapter.parameters():
        nn.init.constant_(parameter, 0.5)


CHANGES = [_step, _copy, _one_copy, _load, _load_assigned, _data, _dtype, _vector, _initialised]


@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_inference_sees_a_changed_core(change: Any, route: str) -> None:
    model, adapter, x = stack(route=route)
    model.eval()
    before = run(model, x)
    assert torch.equal(run(model, x), before)
    change(model, adapter)
    x = x.to(next(model.parameters()).dtype)
    found = run(model, x)
    assert difference(found, merged(model, x)) < TOLERANCE[x.dtype]
    assert (difference(found, before) > 1e-3) == (change is not _dtype)


@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_training_sees_a_changed_core(change: Any, route: str) -> None:
    """The cache also notices a change after a forward pass without a backward pass."""
    model, adapter, x = stack(route=route)
    model(x)
    change(model, adapter)
    x = x.to(next(model.parameters()).dtype)
    output = model(x)
    found = gradients(model, output, weights(output))
    other: Any = copy.deepcopy(model)
    expected = other(x)
    assert difference(output, merged(model, x)) < TOLERANCE[x.dtype]
    alike(found, gradients(other, expected, weights(expected)), TOLERANCE[x.dtype])


def test_several_assignments_of_data_between_two_passes_are_seen() -> None:
    """A new tensor may reuse the memory of a source that was freed."""
    model, adapter, x = stack()
    for _ in range(20):  # memory is reused only by chance
        run(model, x)
        for core in adapter.parameters():
            place = core.data_ptr()
            core.data = 1.01 * core.data
            others = [1.01 * core.data for _ in range(200)]
            core.data = next((other for other in others if other.data_ptr() == place), others[0])
        assert difference(run(model, x), merged(model, x)) < 1e-10


def test_two_forward_passes_and_then_two_backward_passes() -> None:
    model, _, x = stack()
    each = [gradients(model, model(z), weights(z)) for z in (x, 2 * x)]
    outputs = [model(x), model(2 * x)]
    for output, expected in zip(outputs, each, strict=True):
        alike(gradients(model, output, weights(x)), expected)
    outputs = [model(x), model(2 * x)]  # backward runs in reverse order
    for output, expected in zip(outputs[::-1], each[::-1], strict=True):
        alike(gradients(model, output, weights(x)), expected)


def test_a_forward_pass_between_a_forward_and_its_backward_pass_changes_nothing() -> None:
    model, _, x = stack()
    expected = gradients(model, model(x), weights(x))
    output = model(x)
    run(model, 2 * x)
    gradients(model, model(3 * x), weights(x))
    alike(gradients(model, output, weights(x)), expected)


def test_a_core_changed_between_a_forward_and_its_backward_pass_is_refused_or_not_in_the_gradient() -> None:
    """As in a plain layer: a saved tensor that was changed in place raises an error, or has its old values."""
    model, adapter, x = stack()
    expected = gradients(model, model(x), weights(x))
    output = model(x)
    _copy(model, adapter)
    with contextlib.suppress(RuntimeError):
        alike(gradients(model, output, weights(x)), expected)


def test_a_retained_graph_gives_the_same_gradients_again() -> None:
    model, _, x = stack()
    output = model(x)
    first = gradients(model, output, weights(x), retain_graph=True)
    alike(gradients(model, output, weights(x)), first)


def test_accumulated_gradients_are_those_of_one_batch() -> None:
    model, adapter, x = stack()
    xs, to = torch.cat([x, 2 * x, -x]), weights(torch.cat([x, x, x]))
    expected = gradients(model, model(xs), to)
    model.zero_grad()
    for part, own in zip(torch.split(xs, 3), torch.split(to, 3), strict=True):
        torch.autograd.backward(model(part), own)
    alike({n: cast("Tensor", p.grad) for n, p in cores_of(adapter).items()}, expected)


def test_training_follows_inference_mode() -> None:
    model, _, x = stack()
    other = copy.deepcopy(model)
    with torch.inference_mode():
        found = model(x)
    assert difference(found.clone(), run(model, x)) < 1e-12
    output, expected = model(x), other(x)
    alike(gradients(model, output, weights(x)), gradients(other, expected, weights(x)))
    with torch.inference_mode():
        assert torch.equal(model(x), found)


def test_inference_follows_training_without_a_backward_pass() -> None:
    model, _, x = stack()
    expected = model(x).detach()
    found = run(model.eval(), x)
    assert difference(found, expected) < 1e-12
    assert not found.requires_grad
    model.train()
    model(x)
    with torch.no_grad():
        found = model(x)
    assert difference(found, expected) < 1e-12
    assert not found.requires_grad


@pytest.mark.parametrize("name", ["fused", "down"])
def test_a_weight_of_many_parts_is_read_as_its_cores_are_now(name: str) -> None:
    """If the increment is not a product of two matrices, the slices of the cores are cached instead."""
    layout = LAYOUTS[name]
    model, adapter = layout.adapted(MatrixBatch, route="weight")
    x = layout.input(3)
    run(model, x)
    for change in (_step, _copy, _one_copy, _load, _initialised, _load_assigned):
        change(model, adapter)
        assert difference(run(model, x), merged(model, x)) < 1e-10
        output, other = model(x), copy.deepcopy(model)
        alike(gradients(model, output, weights(output)), gradients(other, other(x), weights(output)))


def test_a_pass_in_another_dtype_forms_its_own() -> None:
    """As a model runs that is evaluated with and without autocast by turns."""
    model, adapter, x = stack()
    model.float()
    x = x.float()
    for _ in range(2):
        assert difference(run(model, x), merged(model, x)) < TOLERANCE[torch.float32]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = run(model, x)
        assert difference(half.float(), merged(model, x)) < TOLERANCE[torch.bfloat16]
        _copy(model, adapter)


def test_one_operand_of_another_type_requires_plain_operations() -> None:
    class Other(Tensor):
        pass

    plain = (torch.ones(2), None, nn.Parameter(torch.ones(2)))
    assert not composable(*plain)
    for at in range(4):
        assert composable(*plain[:at], torch.ones(2).as_subclass(Other), *plain[at:])


def test_a_pass_that_fails_is_over() -> None:
    model, adapter, x = stack()
    with pytest.raises(RuntimeError):
        model(x[:, 1:])
    assert forms(adapter) == []
    for core in adapter.parameters():
        core.data.mul_(2)
    assert difference(run(model[0], x), run(copy.deepcopy(model)[0], x)) < 1e-12


def test_threads_have_passes_of_their_own() -> None:
    model, _, x = stack()
    expected = run(model, x)
    gate, found = threading.Barrier(2), []

    def wait(*_: object) -> None:
        gate.wait(10)

    handle = model[1].register_forward_hook(wait)
    threads = [threading.Thread(target=lambda: found.append(run(model, x))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.remove()
    assert [torch.equal(each, expected) for each in found] == [True, True]


def test_a_deep_copy_shares_nothing_that_was_formed() -> None:
    model, adapter, x = stack()
    output = model(x)
    other: Any = copy.deepcopy(model)
    assert other.tensorfact._links.passes is not adapter._links.passes
    assert other.tensorfact._slots["0.weight"].increment.factors is other.tensorfact.factors["stack"]
    expected = gradients(other, other(x), weights(x))
    assert all(parameter.grad is None for parameter in adapter.parameters())
    alike(gradients(model, output, weights(x)), expected)
    kept = run(model, x)
    run(other, x)
    _copy(other, other.tensorfact)
    assert torch.equal(run(model, x), kept)
    assert difference(run(other, x), merged(other, x)) < 1e-10
    assert difference(run(other, x), kept) > 1e-3


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    model, adapter, x = stack()
    x.requires_grad_()  # required by reentrant checkpointing
    expected = gradients(model, model(x), weights(x))
    assert x.grad is not None
    wanted, x.grad = x.grad, None
    lower, upper = model[:2], model[2:4]
    both = checkpoint(upper, checkpoint(lower, x, use_reentrant=reentrant), use_reentrant=reentrant)
    alike(gradients(model, both, weights(x)), expected)
    assert difference(cast("Tensor", x.grad), wanted) < 1e-10
    assert expected.keys() == cores_of(adapter).keys()


def test_gradients_pass_to_whom_they_are_asked_for_only() -> None:
    """`torch.autograd.grad` for some cores changes neither the others nor `.grad`, also twice over one graph."""
    model, adapter, x = stack()
    expected = gradients(model, model(x), weights(x))
    model.zero_grad()
    output = model(x)
    for name, core in cores_of(adapter).items():
        (found,) = torch.autograd.grad(output, core, weights(x), retain_graph=True)
        assert difference(found, expected[name]) < 1e-10
    assert all(core.grad is None for core in adapter.parameters())


# ---------------------------------------------------------------------------------------------------- writes by `.data`


def test_a_moving_average_written_by_data_is_seen() -> None:
    """A copy without a backward pass or a call of `train` or `eval`."""
    model, _, x = stack()
    average = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    for _ in range(3):
        run(average, x)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        for own, other in zip(average.parameters(), model.parameters(), strict=True):
            own.data.mul_(0.5).add_(other.data, alpha=0.5)
        assert difference(run(average, x), merged(average, x)) < 1e-12


def test_merging_and_delta_see_what_was_written_by_data() -> None:
    model, adapter, x = stack()
    run(model, x)
    before = adapter.delta("0.weight").detach()
    for core in adapter.parameters():
        core.data.mul_(2.0)
    assert difference(adapter.delta("0.weight"), 8 * before) < 1e-12
    expected = run(model, x)
    adapter.merge()
    assert difference(run(model, x), expected) < 1e-12


@pytest.mark.parametrize("exchange", [_load_assigned, _data, _vector, _dtype], ids=lambda e: e.__name__.strip("_"))
@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
def test_factors_that_were_exchanged_and_then_written_by_data_are_seen(exchange: Any, route: str) -> None:
    model, adapter, x = stack(route=route)
    run(model, x)
    exchange(model, adapter)
    x = x.to(next(model.parameters()).dtype)
    before = run(model, x)
    for core in adapter.parameters():
        core.data.mul_(2.0)
    assert difference(run(model, x), merged(model, x)) < TOLERANCE[x.dtype]
    assert difference(run(model, x), before) > 1e-3


def _halved_by_numpy(tensor: Tensor) -> None:
    values = tensor.numpy()
    values /= 2


WRITES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda tensor: tensor.mul_(2),
    "through .data": lambda tensor: tensor.data.mul_(2),
    ".data assigned": lambda tensor: setattr(tensor, "data", 2 * tensor.data),
    "through a view": lambda tensor: tensor.view(-1)[0].fill_(9.0),
    "through numpy": _halved_by_numpy,
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("names", ["tensorfact.", "0.", ""])
def test_functional_call_sees_what_was_written_to_its_tensors(names: str, write: str) -> None:
    """To the factors, to the base weights, and to all of them."""
    model, _, x = stack()
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        before = torch.func.functional_call(model, state, (x,))
        for name, tensor in state.items():
            if name.startswith(names) and not name.endswith(".scales"):
                WRITES[write](tensor)
        found = torch.func.functional_call(model, state, (x,))
    assert difference(run(model, x), before) < 1e-12
    model.load_state_dict(state)
    assert difference(found, run(model, x)) < 1e-12
    assert difference(found, before) > 1e-3

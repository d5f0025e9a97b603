"""`disabled()`: contexts overlap, errors of the body are seen, and nothing is copied or recomputed in between."""

from __future__ import annotations

import collections
import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tensorfact import Adapter, Group, Rule, TensorizationPlan, TensorTrain, adapt
from tensorfact.errors import AdaptError
from tensorfact.model.parameters import base_parameters
from tests.helpers import draw, infer, layers, randomise, refused, state_bits

X = torch.linspace(-1, 1, 18).reshape(3, 6)
PLAN = TensorizationPlan((Group("g", "layer in out", (Rule("body.{layer}.weight", "out in"),)),))


def base() -> nn.Sequential:
    parts = {"body": layers(2), "norm": nn.LayerNorm(6), "head": nn.Linear(6, 2)}
    return randomise(nn.Sequential(collections.OrderedDict(parts))).eval()


def adapted() -> tuple[nn.Sequential, Adapter]:
    model = base()
    adapter = adapt(model, PLAN, TensorTrain(2), seed=0)
    draw(adapter)
    with torch.no_grad():
        for name in ("norm.weight", "head.weight", "head.bias"):
            model.get_parameter(name).add_(0.5)
    return model, adapter


@contextlib.contextmanager
def comes_back(model: nn.Sequential, adapter: Adapter) -> Iterator[None]:
    before, expected, merged = state_bits(model), infer(model, X), adapter.merged
    parameters = {name: id(parameter) for name, parameter in base_parameters(model).items()}
    yield
    assert state_bits(model) == before
    assert torch.equal(infer(model, X), expected)
    assert adapter.merged == merged
    assert {name: id(parameter) for name, parameter in base_parameters(model).items()} == parameters


# ---------------------------------------------------------------------------------------------------------- overlapping


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
@pytest.mark.parametrize("merged", [False, True])
def test_contexts_overlap_and_close_in_any_order(order: Sequence[int], merged: bool) -> None:
    model, adapter = adapted()
    if merged:
        adapter.merge()

    def running() -> Iterator[None]:
        with adapter.disabled():
            yield

    with comes_back(model, adapter):
        open_ones = [running() for _ in order]
        for each in open_ones:
            next(each)
        for at in order:
            assert torch.equal(infer(model, X), infer(base(), X))
            with refused(AdaptError, "disabled"):
                adapter.merge()
            assert next(open_ones[at], None) is None


@pytest.mark.parametrize(
    "write",
    [
        lambda model: model.load_state_dict(base().state_dict(), strict=False, assign=True),
        lambda model: setattr(model.get_submodule("head"), "weight", nn.Parameter(torch.zeros(2, 6))),
        lambda model: model.get_submodule("norm").load_state_dict(
            base().get_submodule("norm").state_dict(), assign=True
        ),
    ],
)
def test_tensors_that_are_replaced_in_disabled_are_lost(write: Callable[[nn.Module], object]) -> None:
    model, adapter = adapted()
    before, expected = state_bits(model), infer(model, X)
    with adapter.disabled():
        write(model)
    assert state_bits(model) == before
    assert torch.equal(infer(model, X), expected)


# --------------------------------------------------------------------------------------------------------------- errors


def spoil(adapter: Adapter) -> None:
    with torch.no_grad():
        next(adapter.factors.parameters()).fill_(torch.nan)


@pytest.mark.parametrize("error", [KeyError("body"), KeyboardInterrupt(), AdaptError("of the body")])
def test_an_error_of_the_body_is_seen(error: BaseException) -> None:
    model, adapter = adapted()
    adapter.merge()
    with comes_back(model, adapter), pytest.raises(type(error)) as caught, adapter.disabled():
        raise error
    assert caught.value is error
    assert not hasattr(error, "__notes__")

    def body() -> None:
        with adapter.disabled():
            spoil(adapter)
            raise error

    with pytest.raises(type(error)) as caught:
        body()
    assert caught.value is error
    assert "Leaving disabled() failed too: core 'g." in error.__notes__[0]
    assert not adapter.merged
    assert torch.equal(base_parameters(model)["body.0.weight"], base_parameters(base())["body.0.weight"])
    assert not torch.equal(base_parameters(model)["head.weight"], base_parameters(base())["head.weight"])


def test_an_error_on_leaving_is_raised_if_the_body_has_none() -> None:
    _, adapter = adapted()
    adapter.merge()
    with refused(AdaptError, "NaN"), adapter.disabled():
        spoil(adapter)
    assert not adapter.merged


# --------------------------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize(
    "take",
    [
        nn.Module.state_dict,
        lambda model: nn.ModuleList([model]).state_dict(),
        lambda model: model.tensorfact.state_dict(),
        copy.deepcopy,
        lambda model: copy.deepcopy(model.get_submodule("body.0")),
    ],
    ids=["model", "around", "adapter", "copy", "copy of a layer"],
)
def test_the_state_of_a_disabled_model_is_not_taken(take: Callable[[nn.Module], object]) -> None:
    model, adapter = adapted()
    with comes_back(model, adapter):
        with refused(AdaptError, "state_dict()", "outside"), adapter.disabled():
            take(model)
        take(model)


# ---------------------------------------------------------------------------------------------------------- checkpoints


def checkpointed(model: nn.Sequential, *, reentrant: bool) -> Tensor:
    body = model.get_submodule("body")
    x = checkpoint(body, X.clone().requires_grad_(True), use_reentrant=reentrant)
    assert isinstance(x, Tensor)
    for name in ("norm", "head"):
        x = model.get_submodule(name)(x)
    return torch.square(x).mean()


def gradients(adapter: Adapter) -> dict[str, Tensor]:
    found = {name: core.grad.clone() for name, core in adapter.named_cores().items() if core.grad is not None}
    adapter.zero_grad()
    return found


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_are_not_run_again_by_another_model(reentrant: bool) -> None:
    model, adapter = adapted()
    model.train()
    torch.autograd.backward(checkpointed(model, reentrant=reentrant))
    expected = gradients(adapter)
    loss = checkpointed(model, reentrant=reentrant)
    with comes_back(model, adapter), refused(AdaptError, "backward pass", "outside"), adapter.disabled():
        torch.autograd.backward(loss)
    adapter.zero_grad()
    loss = checkpointed(model, reentrant=reentrant)
    with torch.no_grad(), adapter.disabled():  # a teacher in between
        checkpointed(model, reentrant=reentrant)
    torch.autograd.backward(loss)
    found = gradients(adapter)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_backward_pass_that_runs_no_layer_again_may_lie_in_disabled() -> None:
    model, adapter = adapted()
    model.train()
    torch.autograd.backward(model(X).square().mean())
    expected = gradients(adapter)
    loss = model(X).square().mean()
    with adapter.disabled():
        torch.autograd.backward(loss)
    found = gradients(adapter)
    assert all(torch.equal(found[name], expected[name]) for name in expected)

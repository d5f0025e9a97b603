"""Forward passes in progress: how they nest, and how they end, also without a notice."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from tests.layouts import forms, run, stack


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
def test_what_an_interrupted_pass_formed_is_not_used(route: str) -> None:
    model, adapter, x = stack(route=route)
    handle = model[1].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(x)
    handle.remove()
    for parameter in adapter.parameters():
        parameter.data = 2 * parameter.data
    other: Any = copy.deepcopy(model)  # a copy starts without a pass
    assert torch.equal(run(model[0], x), run(other[0], x))
    adapter.merge()
    other.tensorfact.merge()
    assert torch.equal(run(model, x), run(other, x))


def test_interrupted_passes_do_not_pile_up() -> None:
    model, adapter, x = stack()
    handle = model[1].register_forward_hook(interrupt)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            model(x)
    handle.remove()
    counts: list[int] = []
    model[1].register_forward_hook(lambda *_: counts.append(len(adapter._links.passes._of_thread.passes)))
    model(x)
    assert counts == [1]


def test_an_interrupted_pass_keeps_no_values_of_its_callers() -> None:
    model, _, x = stack()
    model[1].register_forward_hook(interrupt)
    kept: list[weakref.ref[nn.Module]] = []

    def training() -> None:
        mine = nn.Identity()
        kept.append(weakref.ref(mine))
        model(mine(x))

    with pytest.raises(KeyboardInterrupt):
        training()
    gc.collect()
    assert kept[0]() is None


def test_a_thread_that_ends_takes_its_passes_along() -> None:
    model, adapter, x = stack()
    model[1].register_forward_hook(interrupt)
    kept: list[weakref.ref[Any]] = []

    def training() -> None:
        with pytest.raises(KeyboardInterrupt):
            model(x)
        kept.extend(weakref.ref(form) for form in _tensors(forms(adapter)))
        model[0].register_forward_hook(lambda *_: kept.extend(weakref.ref(t) for t in _tensors(forms(adapter))))
        with pytest.raises(KeyboardInterrupt):
            model(x)

    thread = threading.Thread(target=training)
    thread.start()
    thread.join()
    gc.collect()
    assert kept
    assert all(form() is None for form in kept)


def _tensors(formed: list[Any]) -> list[torch.Tensor]:
    return [tensor for each in formed for own in each.whole for tensor in own]


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_of_the_model_inside_of_one_leaves_the_outer_pass(fails: bool) -> None:
    model, adapter, x = stack()
    seen: list[list[object]] = []
    inside: list[bool] = []

    def call_again(*_: object) -> None:
        if not inside:
            inside.append(True)
            outer = forms(adapter)
            if fails:
                with pytest.raises(RuntimeError):
                    model(x[:, :1])
            else:
                model(x)
            assert forms(adapter) == outer
            inside.clear()

    model[1].register_forward_hook(call_again)
    model[2].register_forward_hook(lambda *_: seen.append(forms(adapter)))
    expected = model(x)
    assert all(len(each) == 1 for each in seen)
    assert seen
    assert torch.equal(model(x), expected)
    assert forms(adapter) == []


def test_a_part_that_runs_as_in_a_call_ends_with_its_context() -> None:
    model, adapter, x = stack()
    passes = adapter._links.passes
    with passes.opened():
        model[0](x)
        outer = forms(adapter)
        model(x)
        assert len(outer) == 1
        assert forms(adapter)[0] is outer[0]
        with passes.opened():
            assert passes.forms == {}
        assert forms(adapter)[0] is outer[0]
    assert passes.forms is None

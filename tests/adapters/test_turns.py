"""Threads on one model: the second waits or is refused, every output is a whole one, and the base is restored."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from tensorfact import Adapter, TensorTrain, adapt
from tensorfact.errors import AdaptError
from tests.helpers import TT, draw, infer, layers, layers_plan, randomise, refused, state_bits

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


def adapted() -> tuple[nn.Sequential, Adapter]:
    model = randomise(layers(4))
    adapter = adapt(model, layers_plan(), TT, seed=0)
    draw(adapter)
    return model, adapter


def together(*tasks: Callable[[], object]) -> list[BaseException]:
    """Run functions at the same time, each in a thread; return what they raised."""
    raised: list[BaseException] = []
    start = threading.Barrier(len(tasks))

    def run(task: Callable[[], object]) -> None:
        start.wait(30)
        try:
            task()
        except BaseException as error:  # the thread would lose it
            raised.append(error)

    threads = [threading.Thread(target=run, args=(task,), daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return raised


def merging(adapter: Adapter) -> None:
    for _ in range(15):
        try:
            adapter.merge()
            adapter.unmerge()
        except AdaptError as error:  # the other thread has merged or unmerged it meanwhile
            assert "merged" in str(error)  # noqa: PT017


def disabling(adapter: Adapter, base: Tensor) -> None:
    for _ in range(15):
        with adapter.disabled():
            assert torch.equal(infer(adapter.model, X), base)


def test_outputs_are_whole_while_another_thread_merges() -> None:
    model, adapter = adapted()
    base, plain = state_bits(model), infer(randomise(layers(4)), X)
    expected = infer(model, X)
    adapter.merge()
    merged = infer(model, X)
    adapter.unmerge()

    def running() -> None:
        for _ in range(100):
            found = infer(model, X)
            assert any(torch.equal(found, each) for each in (expected, merged))

    def saving() -> None:
        for _ in range(15):
            adapter.state.check()

    assert not together(running, running, saving, lambda: merging(adapter), lambda: merging(adapter))
    if adapter.merged:
        adapter.unmerge()
    assert state_bits(model) == base
    assert not together(lambda: disabling(adapter, plain), running, lambda: disabling(adapter, plain))
    assert state_bits(model) == base
    adapter.remove()
    assert state_bits(model) == state_bits(randomise(layers(4)))


def test_two_threads_adapt_one_model() -> None:
    for _ in range(4):
        model = randomise(layers(4))
        raised = together(*[functools.partial(adapt, model, layers_plan(), TensorTrain(1))] * 3)
        assert [type(error) for error in raised] == [AdaptError] * 2
        assert all("adapted already" in str(error) for error in raised)
        cast("Adapter", model.tensorfact).remove()
        assert state_bits(model) == state_bits(randomise(layers(4)))
        assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("use", ["merge", "remove", "disabled"])
def test_a_change_inside_a_forward_pass_is_refused(use: str) -> None:
    model, adapter = adapted()
    base = state_bits(model)

    def change(*_: object) -> None:
        if use == "disabled":
            with adapter.disabled():
                pass
        else:
            getattr(adapter, use)()

    handle = model[1].register_forward_hook(change)
    with refused(AdaptError, "inside a forward pass", "before or after"):
        model(X)
    handle.remove()
    assert state_bits(model) == base
    adapter.merge()
    adapter.unmerge()


def test_an_interrupted_pass_does_not_keep_its_turn() -> None:
    model, adapter = adapted()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handle = model[1].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(X)
    handle.remove()
    assert not together(adapter.merge)
    adapter.unmerge()
    assert not together(lambda: model(X), adapter.merge)


@pytest.mark.parametrize("use", ["run", "read", "merge", "remove"])
def test_a_thread_that_waits_for_ever_is_told(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorfact.adapters.turns._PATIENCE", 0.2)
    model, adapter = adapted()
    uses: dict[str, Callable[[], object]] = {"run": lambda: model(X), "read": lambda: adapter.state}
    with adapter.disabled():
        raised = together(uses.get(use) or getattr(adapter, use))
    assert [type(error) for error in raised] == [AdaptError]
    assert "disabled()" in str(raised[0])


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])  # noqa: S301
def test_a_copy_has_turns_of_its_own(twin_of: Callable[[nn.Module], nn.Module]) -> None:
    model, adapter = adapted()
    twin = twin_of(model)
    other = twin.tensorfact
    assert isinstance(other, Adapter)
    with adapter.disabled():
        assert not together(functools.partial(twin, X))
        with refused(AdaptError, "cannot be copied", "outside"):
            twin_of(model)
    assert other._turns.model is twin
    assert any(getattr(hook, "__self__", None) is other._turns for hook in twin._forward_pre_hooks.values())

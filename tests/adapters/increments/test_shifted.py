"""`subtract_start`: the output does not change at first, and training starts from there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorfact import AdapterState, Format, MatrixBatch, TensorTrain, adapt, load_adapter
from tensorfact.adapters.factors import Factors
from tensorfact.adapters.increments import ShiftedIncrement
from tensorfact.algebra.term import terms_of
from tensorfact.formats import Started
from tensorfact.storage.files import read_tensors
from tests.bundled import X, gates, nano, plan
from tests.helpers import TOLERANCE, bits, difference, draw, ids, infer, randomise, state_bits
from tests.layouts import forms, stack
from tests.strategies import Adaptation, adaptations


@settings(max_examples=15)
@given(adaptations(), st.sampled_from(["auto", "weight"]), st.integers(0, 3))
def test_any_start_subtracted_leaves_the_output(adaptation: Adaptation, route: str, seed: int) -> None:
    base = infer(adaptation.case.build(), ids())
    model, adapter = adaptation.fresh(seed=seed, route=route)
    adapter.remove()
    starts = {name: _all_normal(format, adapter.resolved[name].modes) for name, format in adapter.formats.items()}
    adapter = adapt(model, adaptation.case.plan, starts, seed=seed, subtract_start=True, train_head=False)
    assert any(core.any() for core in adapter.named_cores().values())
    assert bits(infer(model, ids())) == bits(base)
    draw(adapter, seed)
    moved = infer(model, ids())
    assert not any(p.requires_grad for p in adapter.starts.parameters())
    adapter.merge()
    assert difference(infer(model, ids()), moved) < TOLERANCE[torch.float32]
    adapter.unmerge()
    assert bits(infer(model, ids())) == bits(moved)
    assert bits(infer(copy.deepcopy(model), ids())) == bits(moved)


def _all_normal(format: Format, modes: Any) -> Format:
    zero = [core.name for core in format.network(modes).cores if core.start == "zero"]
    return Started(format, dict.fromkeys(zero, "normal"))


def test_what_is_subtracted_is_drawn_again(tmp_path: Path) -> None:
    model = randomise(nano(), 1)
    adapter = gates(model, train_head=False)
    draw(adapter)
    adapter.save(tmp_path / "a.safetensors")
    assert sum(t.numel() for t in read_tensors(tmp_path / "a.safetensors").values()) == adapter.num_parameters
    loaded = randomise(nano(), 1)
    again = load_adapter(loaded, tmp_path / "a.safetensors")
    assert state_bits(again) == state_bits(adapter)
    assert bits(infer(loaded, X)) == bits(infer(model, X))
    _, start = terms_of(AdapterState.load(tmp_path / "a.safetensors"), "encoder")
    assert torch.equal(-start.dense(), cast("Factors", adapter.starts["encoder"]).dense())


def test_a_start_from_weights_is_stored(tmp_path: Path) -> None:
    model = nano()
    tuned = {name: p + 0.01 * torch.randn_like(p) for name, p in model.named_parameters()}
    increments = {name: tuned[name] - p for name, p in model.named_parameters()}
    base = infer(model, X)
    adapter = adapt(model, plan(), TensorTrain(4), init=increments, subtract_start=True, train_head=False)
    assert bits(infer(model, X)) == bits(base)
    adapter.save(tmp_path / "a.safetensors")
    assert sum(t.numel() for t in read_tensors(tmp_path / "a.safetensors").values()) == 2 * adapter.num_parameters
    assert state_bits(load_adapter(nano(), tmp_path / "a.safetensors")) == state_bits(adapter)


def test_a_difference_is_converted_as_one() -> None:
    model = nano()
    adapter = gates(model)
    draw(adapter, size=0.1)
    before = {name: adapter.delta(name) for name in adapter.resolved.parameters}
    moved = infer(model, X)
    found = adapter.convert(MatrixBatch("full"), tolerance=1e-5)
    assert found.changes[0].error < 1e-5
    assert not adapter.starts
    found.state.check()
    assert not found.state.description.subtracts_start
    assert all(torch.isfinite(core).all() for core in found.state.tensors.values())
    assert all(difference(adapter.delta(name), value) < 1e-4 for name, value in before.items())
    assert difference(infer(model, X), moved) < 1e-3


@pytest.mark.parametrize("route", ["auto", "weight"])
def test_both_products_take_the_order_that_was_asked_for(route: Any) -> None:
    model = nano()
    base = infer(model, X)
    adapter = gates(model, optimize="greedy", route=route)
    assert bits(infer(model, X)) == bits(base)
    slot = adapter._slots["blocks.0.attn.qkv.weight"].increment
    assert isinstance(slot, ShiftedIncrement)
    assert slot.kind.optimize == slot.start.kind.optimize == "greedy"


def test_gradients_reach_the_factors_and_not_the_start() -> None:
    model = nano()
    adapter = gates(model)
    model(X).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in adapter.factors.parameters())
    assert all(p.grad is None for p in adapter.starts.parameters())


def test_both_increments_are_formed_once_for_all_layers() -> None:
    model, adapter, x = stack(subtract_start=True)
    seen: list[list[object]] = []
    for layer in model[:4]:
        layer.register_forward_hook(lambda *_: seen.append(forms(adapter)))
    model(x)
    assert [len(each) for each in seen] == [2] * 4
    assert all(own is first for each in seen for own, first in zip(each, seen[0], strict=True))

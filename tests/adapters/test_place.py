"""The life of an adapter: merged and unmerged, disabled, copied, removed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from torch import Tensor

from tensorfact import Adapter, adapt
from tensorfact.errors import AdaptError
from tests.helpers import TT, draw, ids, infer, layers, layers_plan, randomise, refused, snapshot, state_bits, untouched
from tests.strategies import Adaptation, adaptations

# ------------------------------------------------------------------------------------------------------ what it changes


@given(adaptations())
def test_removing_gives_the_base_model_back(adaptation: Adaptation) -> None:
    model = adaptation.case.build()
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(True)
    with untouched(model):
        adapter = adapt(model, adaptation.case.plan, adaptation.formats, scale=adaptation.scale)
        draw(adapter)
        adapter.remove()


@given(adaptations())
def test_removing_after_merging_leaves_the_merged_weights(adaptation: Adaptation) -> None:
    model, adapter = adaptation.drawn()
    x = ids()
    adapter.merge()
    merged, weights = infer(model, x), {n: b for n, b in state_bits(model).items() if not n.startswith("tensorfact.")}
    adapter.remove()
    assert state_bits(model) == weights
    assert torch.equal(infer(model, x), merged)
    adapt(model, adaptation.case.plan, adaptation.formats)


@given(adaptations())
def test_disabled_runs_the_base_model_merged_or_not(adaptation: Adaptation) -> None:
    plain = infer(adaptation.case.build(), ids())
    model, adapter = adaptation.drawn()
    adapted = infer(model, ids())
    with adapter.disabled():
        assert torch.equal(infer(model, ids()), plain)
        with adapter.disabled():
            assert torch.equal(infer(model, ids()), plain)
    assert torch.equal(infer(model, ids()), adapted)
    adapter.merge()
    before = snapshot(model)
    with adapter.disabled():
        assert torch.equal(infer(model, ids()), plain)
    assert adapter.merged
    assert snapshot(model) == before


def test_disabled_ends_with_an_error_too() -> None:
    model = layers()
    adapter = adapt(model, layers_plan(), TT)
    draw(adapter)
    adapter.merge()
    before = snapshot(model)
    with pytest.raises(KeyError), adapter.disabled():
        raise KeyError
    assert snapshot(model) == before
    assert adapter.merged


def test_the_root_may_be_a_sequential_whose_children_are_called_in_turn() -> None:
    model = layers(3)
    adapter = adapt(model, layers_plan(), TT)
    assert model(torch.randn(2, 6)).shape == (2, 6)
    assert [type(module).__name__ for module in model][-1] == "Adapter"
    adapter.remove()
    assert len(model) == 3


@given(adaptations(called=True))
def test_a_copy_is_another_model(adaptation: Adaptation) -> None:
    model, adapter = adaptation.drawn()
    twin = copy.deepcopy(model)
    expected, before = infer(model, ids()), snapshot(model)
    assert torch.equal(infer(twin, ids()), expected)
    other = cast("Adapter", twin.tensorfact)
    assert other is not adapter
    assert other.model is twin
    draw(other, seed=1)
    assert not torch.equal(infer(twin, ids()), expected)
    other.merge()
    other.remove()
    assert snapshot(model) == before
    assert torch.equal(infer(model, ids()), expected)
    with adapter.disabled():
        assert not torch.equal(infer(model, ids()), expected)


def test_a_copy_of_a_merged_model_unmerges_on_its_own() -> None:
    model = randomise(layers())
    base = state_bits(model)
    adapter = adapt(model, layers_plan(), TT)
    draw(adapter)
    adapter.merge()
    twin = cast("Adapter", copy.deepcopy(model).tensorfact)
    twin.unmerge()
    assert adapter.merged
    assert not twin.merged
    assert {n: b for n, b in state_bits(twin.model).items() if not n.startswith("tensorfact.")} == base


def test_training_mode_reaches_the_factors() -> None:
    model = layers().eval()
    adapter = adapt(model, layers_plan(), TT, dropout=0.5)
    assert adapter.dropout == 0.5
    assert not adapter.training
    model.train()
    assert all(module.training for module in adapter.modules())


# ------------------------------------------------------------------------------------------------------- the life cycle


def test_merging_and_unmerging_out_of_turn_is_refused() -> None:
    model = randomise(layers())
    adapter = adapt(model, layers_plan(), TT)
    with untouched(model), refused(AdaptError, "not merged", "adapter.merge()"):
        adapter.unmerge()
    adapter.merge()
    with untouched(model), refused(AdaptError, "already merged", "adapter.unmerge()"):
        adapter.merge()


@pytest.mark.parametrize("use", ["merge", "unmerge", "remove", "save", "disabled"])
def test_an_adapter_that_was_removed_is_refused(use: str, tmp_path: Any) -> None:
    adapter = adapt(layers(), layers_plan(), TT)
    adapter.remove()
    with refused(AdaptError, "removed"):
        if use == "save":
            adapter.save(tmp_path / "file")
        elif use == "disabled":
            with adapter.disabled():
                pass
        else:
            getattr(adapter, use)()


def test_a_failed_merge_restores_every_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomise(layers(4))
    adapter = adapt(model, layers_plan(), TT)
    draw(adapter)
    slot = adapter._slots["2.weight"]

    def fail(*arguments: object, **options: object) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(slot.increment, "add_into", fail)
    with untouched(model), pytest.raises(MemoryError):
        adapter.merge()
    assert not adapter.merged


def another_adapted_layer() -> torch.nn.Module:
    """Return an adapted layer of another model."""
    model = layers(3)
    adapt(model, layers_plan(), TT)
    return model[1]


@pytest.mark.parametrize(
    "new",
    [torch.nn.Sequential, copy.deepcopy, lambda _: another_adapted_layer()],
    ids=["wrapped", "a copy", "another's"],
)
def test_a_layer_that_was_replaced_is_neither_merged_nor_saved(
    new: Callable[[torch.nn.Module], torch.nn.Module], tmp_path: Path
) -> None:
    model = randomise(layers(3))
    adapter = adapt(model, layers_plan(), TT)
    draw(adapter)
    adapted = model[1]
    model[1] = new(adapted)
    for call in (adapter.merge, lambda: adapter.save(tmp_path / "a")):
        with untouched(model), refused(AdaptError, "'1.weight'", "replaced", f"got {type(model[1]).__name__}"):
            call()
    assert not list(tmp_path.iterdir())
    model[1] = adapted
    adapter.merge()

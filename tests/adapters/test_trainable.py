"""Scales in a `state_dict`, and balancing an adapter of any origin."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from tensorfact import Adapter, MatrixBatch, TensorTrain, adapt, load_adapter
from tensorfact.errors import AdaptError, CheckpointError
from tensorfact.formats import Started
from tests.bundled import nano, plan
from tests.helpers import draw, infer, randomise, refused

KEY = "tensorfact.scale_state.scales"
X = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def adapter_of(model: nn.Module) -> Adapter:
    return cast("Adapter", model.tensorfact)


def test_a_state_dict_brings_its_scales_to_a_model_of_other_weights_and_another_seed() -> None:
    one, two = nano(), randomise(nano())
    draw(adapt(one, plan(), TensorTrain(4), seed=0))
    other = adapt(two, plan(), TensorTrain(4), seed=1)
    assert other.scales != adapter_of(one).scales
    two.load_state_dict(one.state_dict())
    assert other.scales == adapter_of(one).scales
    assert torch.equal(infer(two, X), infer(one, X))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_scale_keeps_its_digits_when_the_model_changes_its_dtype(dtype: torch.dtype) -> None:
    model = nano()
    adapter = adapt(model, plan(), TensorTrain(4), seed=0)
    scales = dict(adapter.scales)
    state = {name: tensor.clone() for name, tensor in model.to(dtype).state_dict().items()}
    assert state[KEY].dtype == torch.float32
    model.load_state_dict(state)
    assert adapter.scales == scales


def test_the_states_of_deep_copies_are_apart() -> None:
    model = nano()
    adapter = adapt(model, plan(), TensorTrain(4), seed=0)
    copied = copy.deepcopy(model)
    draw(adapter)
    adapter.named_cores()["encoder.U"].data.mul_(3)
    before = adapter.delta("blocks.0.attn.qkv.weight")
    adapter.balance()
    assert adapter_of(copied).scales != adapter.scales
    assert torch.allclose(adapter.delta("blocks.0.attn.qkv.weight"), before, atol=1e-6)
    assert float(model.state_dict()[KEY]) == pytest.approx(adapter.scales["encoder"], rel=1e-6)
    assert float(copied.state_dict()[KEY]) == pytest.approx(adapter_of(copied).scales["encoder"], rel=1e-6)


def test_a_loaded_adapter_keeps_the_scale_of_its_file_and_can_be_balanced(tmp_path: Path) -> None:
    model = nano()
    adapter = adapt(model, plan(), MatrixBatch(2), scale=2.0, seed=0)
    draw(adapter)
    adapter.save(tmp_path / "a.safetensors")
    loaded = load_adapter(nano(), tmp_path / "a.safetensors")
    assert loaded.scales == {"encoder": 2.0}
    loaded.balance(["encoder"])
    assert [group["lr"] for group in loaded.parameter_groups(1e-3)] == [1e-3]
    assert torch.allclose(infer(loaded.model, X), infer(model, X), atol=1e-5)
    loaded.save(tmp_path / "b.safetensors")
    assert load_adapter(nano(), tmp_path / "b.safetensors").scales == loaded.scales


@pytest.mark.parametrize("scale", [1.0, "auto"])
def test_balancing_keeps_an_increment_whose_start_is_subtracted(scale: Any) -> None:
    format = Started(TensorTrain(4), {"V": "normal"})
    adapter = adapt(nano(), plan(), format, scale=scale, seed=0, subtract_start=True)
    adapter.balance()
    assert not bool(adapter.delta("blocks.0.attn.qkv.weight").any())
    with torch.no_grad():
        for core in adapter.factors.parameters():
            core.mul_(1.5)
    before = adapter.delta("blocks.0.attn.qkv.weight").detach()
    adapter.balance()
    found = adapter.delta("blocks.0.attn.qkv.weight").detach()
    assert torch.allclose(found, before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))


def test_a_scale_of_zero_stays() -> None:
    adapter = adapt(nano(), plan(), TensorTrain(2), scale=0.0, seed=0)
    adapter.balance()
    assert adapter.scales == {"encoder": 0.0}


def test_a_derived_scale_is_taken_from_a_file_and_a_given_one_must_be_the_same(tmp_path: Path) -> None:
    auto, other = (adapt(nano(), plan(), TensorTrain(4), seed=seed) for seed in (0, 1))
    auto.save(tmp_path / "a.safetensors")
    other.load(tmp_path / "a.safetensors")
    assert other.scales == auto.scales
    with refused(CheckpointError, "scales"):
        adapt(nano(), plan(), TensorTrain(4), scale=1.0).load(tmp_path / "a.safetensors")


def test_what_cannot_be_balanced_is_refused() -> None:
    adapter = adapt(nano(), plan(), TensorTrain(2), seed=0)
    with refused(AdaptError, "balance: tensors", "'encoder'"):
        adapter.balance(["head"])
    adapter.merge()
    with refused(AdaptError, "merged"):
        adapter.balance()


def test_learning_rates_are_not_derived_from_merged_weights() -> None:
    adapter = adapt(nano(), plan(), MatrixBatch(4), scale=1.0, seed=0)
    draw(adapter)
    adapter.merge()
    with refused(AdaptError, "already merged", "unmerge()"):
        adapter.parameter_groups(1e-3)
    assert adapter.parameter_groups(1e-3, {"B": 16.0})


def test_balancing_waits_for_its_turn_and_names_are_a_list() -> None:
    model = nano()
    adapter = adapt(model, plan(), MatrixBatch(4), scale=1.0, seed=0)
    hook = model.blocks[1].register_forward_hook(lambda *_: adapter.balance())  # type: ignore[index, union-attr]  # timm's
    with refused(AdaptError, "balance() inside a forward pass", "before or after"):
        model(torch.zeros(1, 1, 28, 28))
    hook.remove()
    model.blocks[1].register_forward_hook(lambda *_: adapter.resize(MatrixBatch(5)) and None)  # type: ignore[index, union-attr]
    with refused(AdaptError, "resize() inside a forward pass"):
        model(torch.zeros(1, 1, 28, 28))
    for names in ("encoder", 3):
        with refused(AdaptError, "balance: tensors", "a list of names", "tensors=['encoder']"):
            adapter.balance(names)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("wrong", ["ranks", "scale"])
def test_a_state_dict_that_is_refused_leaves_the_scale(wrong: str) -> None:
    (model, adapter), (_, other) = (
        (m := nano(), adapt(m, plan(), MatrixBatch(rank), scale=scale, seed=0)) for rank, scale in ((4, 1.0), (8, 3.0))
    )
    state = other.model.state_dict() if wrong == "ranks" else adapter.model.state_dict()
    if wrong == "scale":
        state["tensorfact.scale_state.scales"] = torch.tensor([torch.nan])
    with pytest.raises(RuntimeError, match="size mismatch" if wrong == "ranks" else "not finite"):
        model.load_state_dict(state)
    assert adapter.scales == {"encoder": 1.0}


def test_other_factors_are_not_loaded_under_merged_weights() -> None:
    model, other = nano(), nano()
    adapter = adapt(model, plan(), MatrixBatch(4), seed=0)
    draw(adapt(other, plan(), MatrixBatch(4), seed=0))
    adapter.merge()
    with refused(AdaptError, "the state holds other factors", "unmerge()"):
        model.load_state_dict(other.state_dict())
    adapter.unmerge()
    model.load_state_dict(other.state_dict())
    assert torch.equal(infer(model, torch.ones(1, 1, 28, 28)), infer(other, torch.ones(1, 1, 28, 28)))

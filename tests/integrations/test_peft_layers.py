"""`doctor` with peft: layers of its adapters that a model never calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from tensorfact import doctor
from tensorfact.errors import AdaptError
from tests.helpers import refused, state_bits

QKV = [f"blocks.{layer}.attn.qkv" for layer in range(2)]


def beit() -> Any:
    """Return a model that reads the weight of `qkv` and never calls the layer."""
    return timm.create_model("beit_base_patch16_224", depth=2, embed_dim=32, num_heads=2, img_size=32)


@pytest.mark.parametrize("given", ["a configuration", "a folder", "a model"])
def test_layers_that_the_model_never_calls_are_named(given: str, tmp_path: Path) -> None:
    model, config = beit(), LoraConfig(target_modules=["qkv", "proj"])
    state = state_bits(model)
    if given == "a configuration":
        found = doctor(model, peft=config)
    elif given == "a folder":
        config.save_pretrained(tmp_path)
        found = doctor(model, peft=tmp_path)
    else:
        found = doctor(get_peft_model(beit(), config))
    assert found.peft_unused == tuple(QKV)
    assert (found.plan, found.unused) == ("plan_for", ()), "tensorfact adapts these weights where they are read"
    assert "peft: the forward pass calls 3 of 5 adapted layers" in found.remarks
    assert all(name in str(found) for name in QKV)
    assert state_bits(model) == state
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("targets", "unused"),
    [
        (["linear1", "linear2"], ()),
        (["self_attn", "out_proj", "linear1"], ()),  # peft's layer of attention reads the weights of the one in it
        (["out_proj"], ("layers.0.self_attn.out_proj", "layers.1.self_attn.out_proj")),
    ],
)
def test_fused_layers_of_torch_are_no_false_alarm(targets: list[str], unused: tuple[str, ...]) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    found = doctor(model, peft=LoraConfig(target_modules=targets), example_input=torch.randn(2, 3, 16), costs=False)
    assert found.peft_unused == unused


@pytest.mark.parametrize("peft", ["nothing", 3, {"r": 8}], ids=str)
def test_other_things_are_refused(peft: Any) -> None:
    with refused(AdaptError, "doctor: peft", "a configuration of peft"):
        doctor(beit(), peft=peft)


def test_a_damaged_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{")
    with refused(AdaptError, "doctor: peft"):
        doctor(beit(), peft=tmp_path)


def test_a_configuration_that_does_not_fit_is_a_remark() -> None:
    found = doctor(beit(), peft=LoraConfig(target_modules=["no_such_layer"]), costs=False)
    assert found.peft_unused is None
    assert "no_such_layer" in found.remarks[-1]

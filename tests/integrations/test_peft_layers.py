"""`doctor` with peft: layers of its adapters that a model never calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from peft import (
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
    inject_adapter_in_model,
)
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from tensorfact import doctor
from tensorfact.errors import AdaptError
from tensorfact.integrations.peft import TensorfactConfig, register
from tensorfact.lab import nano
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


NO_LAYERS = "peft: this method puts no layers around those of the model"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks transformers
@pytest.mark.parametrize("method", [PromptTuningConfig, PrefixTuningConfig, PromptEncoderConfig])
def test_prompts_put_no_layers_around_those_of_the_model(method: Any) -> None:
    def bert() -> Any:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        return BertForSequenceClassification(BertConfig(**sizes))

    config = method(task_type="SEQ_CLS", num_virtual_tokens=4)
    expected = doctor(bert(), costs=False)
    for found in (doctor(get_peft_model(bert(), config), costs=False), doctor(bert(), peft=config, costs=False)):
        assert (found.plan, found.head, found.unused) == (expected.plan, expected.head, expected.unused)
        assert (found.model, found.parameters, found.folded) == (expected.model, expected.parameters, expected.folded)
        assert found.peft_unused == ()
        assert found.remarks[-1] == NO_LAYERS


def test_an_adapter_of_tensorfact_in_peft_is_examined_as_its_base_model() -> None:
    register()
    base, model = doctor(nano(), costs=False), get_peft_model(nano(), TensorfactConfig(rank=2))
    state = state_bits(model)
    for found in (doctor(model, costs=False), doctor(nano(), peft=TensorfactConfig(rank=2), costs=False)):
        assert (found.parameters, found.folded, found.unused) == (base.parameters, base.folded, ())
        assert found.remarks == (NO_LAYERS,)
    assert state_bits(model) == state


def test_a_method_whose_layers_share_matrices_is_taken_as_a_configuration() -> None:
    config = VeraConfig(target_modules=["qkv", "attn.proj"])
    for found in (doctor(beit(), peft=config, costs=False), doctor(get_peft_model(beit(), config), costs=False)):
        assert found.peft_unused == tuple(QKV)
        assert found.remarks[-1] == "peft: the forward pass calls 2 of 4 adapted layers"


def test_a_configuration_is_not_changed() -> None:
    config = LoraConfig(target_modules="all-linear")
    doctor(beit(), peft=config, costs=False)
    assert config.target_modules == "all-linear"


def test_layers_of_peft_in_the_model_itself_are_refused() -> None:
    model = inject_adapter_in_model(LoraConfig(target_modules=["qkv"]), beit())
    with refused(AdaptError, "doctor: Beit holds adapters of peft", "doctor(base_model, peft=config)"):
        doctor(model)

"""tensorfact as a method of peft: whatever peft does to an adapter, it is the adapter that `adapt` creates."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PeftType,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tensorfact import CP, Format, MatrixBatch, TensorTrain, Tucker, adapt, plan_for
from tensorfact.adapters.factors import Factors
from tensorfact.errors import AdaptError, FormatError, NoMatchError, PlanError
from tensorfact.formats import Started
from tensorfact.integrations.peft import TensorfactConfig, TensorfactLayer, register
from tensorfact.lab import nano
from tests.helpers import (
    TOLERANCE,
    Tiny,
    bits,
    difference,
    ids,
    infer,
    layers,
    layers_plan,
    one_rule,
    qkv_plan,
    randomise,
    refused,
    snapshot,
    state_bits,
    untouched,
)

FIRST: dict[str, Any] = {"plan": qkv_plan(), "format": TensorTrain(2), "scale": 0.5, "init_weights": False, "seed": 1}
OTHER: dict[str, Any] = {"plan": qkv_plan("q", None, "v"), "format": "cp", "rank": 3, "init_weights": False, "seed": 2}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register()
    with warnings.catch_warnings():  # peft warns of names in general, and of what it undoes
        warnings.filterwarnings("ignore", message="Adapter .* was active which is now deleted")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks transformers
        warnings.filterwarnings("ignore", message="The PEFT config's `base_model_name_or_path` was renamed")
        yield


def tiny(dtype: torch.dtype = torch.float32) -> Tiny:
    return randomise(Tiny()).to(dtype).eval()


def one(model: nn.Module | None = None, **changes: Any) -> Any:
    """Return peft's model of a small one, with random factors."""
    return get_peft_model(model or tiny(), TensorfactConfig(**{**FIRST, **changes})).eval()


def two(**changes: Any) -> Any:
    """Return peft's model with a second adapter, which is not active."""
    model = one(**changes)
    model.add_adapter("other", TensorfactConfig(**OTHER))
    return model


def factors(model: nn.Module, adapter: str = "default") -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if f"factors.{adapter}." in name}


# --------------------------------------------------------------------------------------------------------- registration


def test_nothing_is_registered_by_an_import() -> None:
    code = "import sys, tensorfact.integrations; print('peft' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


def test_without_register_the_error_says_what_to_call() -> None:
    with mock.patch.dict(cast("Any", PeftType)._member_map_) as members:
        del members["TENSORFACT"]
        with refused(AdaptError, "integrations.peft.register()"):
            TensorfactConfig()


def test_register_may_be_called_twice_and_refuses_an_old_peft() -> None:
    register()
    assert [name for name in PeftType if name == "TENSORFACT"] == [PeftType.TENSORFACT]
    assert PeftType("TENSORFACT") is PeftType.TENSORFACT
    hook = BaseTuner._remove_adapter_name_from_key
    with mock.patch.dict("peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING", clear=True):
        try:
            del BaseTuner._remove_adapter_name_from_key
            with refused(AdaptError, "too old", "pip install"):
                register()
        finally:
            BaseTuner._remove_adapter_name_from_key = hook


# -------------------------------------------------------------------------------------------------------- configuration


@settings(max_examples=20)
@given(
    st.sampled_from(
        [TensorTrain((2, 3)), "tt", "tucker:rank=(2,3,4)", Started(CP(2), frozen=["U1"]), MatrixBatch("full")]
    ),
    st.sampled_from([None, 2, 0.5, "full"]),
    st.sampled_from([None, qkv_plan(), qkv_plan().to_json(), json.loads(qkv_plan().to_json())]),
    st.sampled_from([0.0, 0.5, {"rank": 0.1}]),
)
def test_a_configuration_survives_its_file(format: Any, rank: Any, plan: Any, dropout: Any) -> None:
    if format == "tt" and rank is None:
        with refused(FormatError, "tt:rank=4"):
            TensorfactConfig(format=format)
        return
    config = TensorfactConfig(plan=plan, format=format, rank=rank, dropout=dropout, modules_to_save=["head"])
    data = json.loads(json.dumps(config.to_dict()))
    assert PeftConfig.from_peft_type(**data) == config
    assert TensorfactConfig(**data) == config


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"format": "nano"}, FormatError, "nano"),
        ({"format": 3}, FormatError, "TensorfactConfig: format"),
        ({"plan": "{}"}, PlanError, "groups"),
        ({"alpha": 8.0, "scale": 2.0}, AdaptError, "alpha and scale"),
        ({"modules_to_save": "head"}, AdaptError, "['head']"),
        ({"modules_to_save": [1]}, AdaptError, "['head']"),
        ({"modules_to_save": 1}, AdaptError, "['head']"),
        ({"init_weights": "no"}, AdaptError, "init_weights"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], kind: Any, words: str) -> None:
    with refused(kind, words, fix=kind is not PlanError):
        TensorfactConfig(**options)


def test_the_default_plan_is_that_of_the_family_and_is_stored(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    options = LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=30)
    model, x = LlamaForCausalLM(options).eval(), torch.tensor([[1, 5, 2]])
    plan = plan_for(model)
    adapted = get_peft_model(model, TensorfactConfig(rank=2, task_type="CAUSAL_LM", init_weights=False)).eval()
    assert json.dumps(adapted.peft_config["default"].plan) == json.dumps(json.loads(plan.to_json()))
    found = adapted(x).logits
    assert adapted.generate(input_ids=x, max_new_tokens=1, pad_token_id=0).shape == (1, 4)
    adapted.save_pretrained(tmp_path)
    base = adapted.unload()
    assert torch.equal(PeftModel.from_pretrained(base, tmp_path)(x).logits, found)
    with untouched(unknown := tiny()), refused(NoMatchError, "Tiny belongs to no known family"):
        get_peft_model(unknown, TensorfactConfig())


# ----------------------------------------------------------------------------------------------- one adapter on a model


@pytest.mark.parametrize("format", [TensorTrain(2), CP(3), Tucker(2), MatrixBatch(2)])
@pytest.mark.parametrize("scale", [{"scale": 0.5}, {"alpha": 6.0}])
def test_it_is_the_adapter_of_adapt(format: Format, scale: dict[str, Any]) -> None:
    model, base = one(None, **{"format": format, "scale": 1.0, **scale}), tiny()
    size = scale.get("scale", 6.0 / cast("Any", format).rank)
    adapter = adapt(base, qkv_plan(), format, scale=size, train_head=False, check=False)
    assert [core.shape for core in adapter.factors.parameters()] == [p.shape for p in factors(model).values()]
    for own, core in zip(adapter.factors.parameters(), factors(model).values(), strict=True):
        own.data.copy_(core.data)
    assert bits(infer(model, ids())) == bits(infer(base, ids()))


def test_it_starts_as_the_base_model_and_trains_the_factors_alone() -> None:
    base = tiny()
    model = one(copy.deepcopy(base), init_weights=True, modules_to_save=["head"])
    assert bits(infer(model, ids())) == bits(infer(base, ids()))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {*factors(model), *(name for name, _ in model.named_parameters() if "modules_to_save" in name)}
    own = sum(p.numel() for p in factors(model).values()) + 15
    assert model.get_nb_trainable_parameters()[0] == own
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.1), []
    for _ in range(20):
        optimizer.zero_grad()
        loss: Any = nn.functional.cross_entropy(model.train()(ids()), torch.tensor([0, 1, 2]))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    with model.disable_adapter():
        assert bits(infer(model, ids())) == bits(infer(base, ids()))
    unloaded, expected = state_bits(model.unload()), state_bits(base)
    assert {name for name in expected if unloaded[name] != expected[name]} == {
        "head.weight",
        "head.bias",
    }  # as peft does


def test_only_factors_and_saved_modules_are_stored() -> None:
    model = one(modules_to_save=["head"])
    start = "base_model.model."
    assert set(get_peft_model_state_dict(model)) == {
        *(f"{start}tensorfact.factors.g.cores.{core}" for core in ("U", "S1", "V")),
        *(f"{start}head.{name}" for name in ("weight", "bias")),
    }
    assert set(model.get_base_model().tensorfact.state_dict()) == {
        f"factors.default.g.cores.{core}" for core in ("U", "S1", "V")
    }


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_is_loaded_bit_for_bit(low_cpu_mem_usage: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    model = one(tiny(dtype), modules_to_save=["head"])
    model.add_adapter("other", TensorfactConfig(**OTHER))
    with torch.no_grad():
        model.base_model.model.head.modules_to_save["default"].weight.mul_(2)
    model.save_pretrained(tmp_path)
    found = PeftModel.from_pretrained(tiny(dtype), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert not any(p.requires_grad or p.is_meta for p in found.parameters())
    assert {p.dtype for p in factors(found).values()} == {torch.float32}
    assert bits(infer(found, ids())) == bits(infer(model, ids()))
    found.load_adapter(tmp_path / "other", "second", is_trainable=True, low_cpu_mem_usage=low_cpu_mem_usage)
    found.set_adapter("second")
    model.set_adapter("other")
    assert bits(infer(found, ids())) == bits(infer(model, ids()))
    assert all(p.requires_grad for p in factors(found, "second").values())


def test_factors_take_the_dtype_of_the_base_if_peft_is_asked_to() -> None:
    config = TensorfactConfig(**FIRST)
    model = get_peft_model(tiny(torch.bfloat16), config, autocast_adapter_dtype=False).eval()
    wide = one(tiny(torch.bfloat16))
    assert {p.dtype for p in factors(model).values()} == {torch.bfloat16}
    assert difference(infer(model, ids()), infer(wide, ids())) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])  # noqa: S301
def test_a_copy_is_a_model_of_its_own(copied: Any) -> None:
    model = two()
    other = copied(model)
    assert bits(infer(other, ids())) == bits(infer(model, ids()))
    before = infer(model, ids())
    with torch.no_grad():
        next(iter(factors(other).values())).mul_(2)
    assert difference(infer(other, ids()), before) > 1e-3
    other.set_adapter("other")
    other.merge_and_unload()
    assert bits(infer(model, ids())) == bits(before)


def test_dropout_is_active_in_training_only() -> None:
    model = one(dropout=0.5)
    kept = infer(model, ids())
    torch.manual_seed(0)
    model.train()
    assert difference(model(ids()), model(ids())) > 1e-4
    assert bits(infer(model, ids())) == bits(kept)


def test_frozen_cores_stay_frozen_whatever_peft_unfreezes() -> None:
    model = one(format=Started(TensorTrain(2), frozen=["U"]))
    model.add_adapter("other", TensorfactConfig(**OTHER))
    for change in (model.set_adapter, model.set_requires_grad):
        model.set_adapter("other")
        change("default")
        assert {name[-1] for name, p in factors(model).items() if p.requires_grad} == {"1", "V"}


def test_a_sequential_model_and_one_without_peft_model() -> None:
    model, x = randomise(layers()), torch.randn(3, 6)
    config = TensorfactConfig(plan=layers_plan(), rank=2, init_weights=False)
    wrapped = get_peft_model(copy.deepcopy(model), config).eval()
    assert difference(infer(wrapped, x), infer(model, x)) > 1e-3
    injected = inject_adapter_in_model(config, model).eval()
    set_peft_model_state_dict(injected, get_peft_model_state_dict(wrapped))
    assert bits(infer(injected, x)) == bits(infer(wrapped, x))


# ----------------------------------------------------------------------------------------------------- merge and unload


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_keeps_the_output_and_is_undone_bit_for_bit(dtype: torch.dtype) -> None:
    model = one(tiny(dtype))
    found, weights = infer(model, ids()), state_bits(model)
    model.merge_adapter()
    assert difference(infer(model, ids()), found) < TOLERANCE[dtype]
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_adapter()
    model.unmerge_adapter()
    assert state_bits(model) == weights
    assert bits(infer(model, ids())) == bits(found)
    merged = model.merge_and_unload(safe_merge=True)
    assert difference(infer(merged, ids()), found) < TOLERANCE[dtype]
    assert snapshot(merged)["classes"] == snapshot(tiny())["classes"]


def test_unload_brings_back_the_base_model_and_merges_name_adapters() -> None:
    base = tiny()
    with untouched(base):
        one(base).unload()
    model = two()
    model.set_adapter("other")
    found = infer(model, ids())
    model.set_adapter("default")
    assert difference(infer(model.merge_and_unload(adapter_names=["other"]), ids()), found) < 1e-5


def test_a_merged_adapter_is_disabled_too() -> None:
    model, base = one(), tiny()
    found = infer(model, ids())
    model.merge_adapter()
    with model.disable_adapter():
        assert bits(infer(model, ids())) == bits(infer(base, ids()))
    assert bits(infer(model, ids())) == bits(found)


def test_nan_is_not_merged() -> None:
    model = one()
    with torch.no_grad():
        next(iter(factors(model).values())).fill_(float("nan"))
    before = state_bits(model)
    with refused(AdaptError, "adapter 'default'", "NaN"):
        model.merge_adapter()
    assert state_bits(model) == before


# ----------------------------------------------------------------------------------------------------- several adapters


def test_a_switch_changes_output_and_gradients() -> None:
    model = two()
    alone = {"default": infer(one(), ids()), "other": infer(one(**{**OTHER, "scale": 1.0}), ids())}
    for name in ("default", "other", "default"):
        model.set_adapter(name)
        assert bits(infer(model, ids())) == bits(alone[name])
        for adapter in alone:
            assert {p.requires_grad for p in factors(model, adapter).values()} == {adapter == name}
    model.set_adapter("other", inference_mode=True)
    assert not any(p.requires_grad for p in model.parameters())
    assert model.get_model_status().active_adapters == ["other"]


def test_two_that_are_active_are_added() -> None:
    model, base = two(), tiny()
    model.base_model.set_adapter(["default", "other"])
    both = infer(model, ids())
    assert all(p.requires_grad for name in ("default", "other") for p in factors(model, name).values())
    model.merge_adapter()
    assert model.get_model_status().merged_adapters == ["default", "other"]
    assert difference(infer(model, ids()), both) < 1e-5
    assert state_bits(model.base_model.model.embed) == state_bits(base.embed)
    model.unmerge_adapter()
    assert bits(infer(model, ids())) == bits(both)


def test_saved_modules_belong_to_their_adapter() -> None:
    model = two(modules_to_save=["head"])
    with torch.no_grad():
        model.base_model.model.head.modules_to_save["default"].bias.add_(1)
    first = infer(model, ids())
    model.set_adapter("other")
    assert difference(infer(model, ids()), first) > 0.1
    model.set_adapter("default")
    assert bits(infer(model, ids())) == bits(first)
    assert difference(infer(model.merge_and_unload(), ids()), first) < 1e-5


def test_deleting() -> None:
    model, base = two(), tiny()
    first = infer(model, ids())
    model.merge_adapter(["other"])
    with pytest.raises(ValueError, match="merged"):
        model.delete_adapter("other")
    model.unmerge_adapter()
    model.delete_adapter("other")
    assert bits(infer(model, ids())) == bits(first)
    assert not factors(model, "other")
    model.add_adapter("other", TensorfactConfig(**OTHER))
    model.delete_adapter("default")
    assert model.active_adapters == ["other"]
    model.delete_adapter("other")
    assert bits(infer(model.base_model, ids())) == bits(infer(base, ids()))
    assert state_bits(model.unload()) == state_bits(base)


def test_what_is_not_supported_is_refused_by_name() -> None:
    model = two()
    with refused(AdaptError, "adapter_names"):
        model(ids(), adapter_names=["default", "other", "other"])
    with refused(AdaptError, "add_weighted_adapter", "combine"):
        model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum")


def test_a_name_is_given_once() -> None:
    model = two()
    before = infer(model, ids())
    with refused(AdaptError, "'other' exists already"):
        model.base_model.inject_adapter(model.get_base_model(), "other")
    assert bits(infer(model, ids())) == bits(before)


@pytest.mark.parametrize("saved", [["qkv"], ["blocks.0"]])
def test_a_module_is_adapted_or_saved_whole(saved: list[str]) -> None:
    with untouched(base := tiny()), refused(AdaptError, "modules_to_save", "qkv.weight"):
        one(base, modules_to_save=saved)
    model = two()
    before = infer(model, ids())
    with refused(AdaptError, "modules_to_save", "'default'"):
        model.add_adapter("third", TensorfactConfig(plan=one_rule("embed.weight"), rank=2, modules_to_save=saved))
    assert list(model.peft_config) == ["default", "other"]
    assert bits(infer(model, ids())) == bits(before)


def test_one_kind_of_adapter_at_a_time() -> None:
    base = tiny()
    adapt(base, qkv_plan(), TensorTrain(2), check=False)
    with untouched(base), refused(AdaptError, "adapted already"):
        get_peft_model(base, TensorfactConfig(**FIRST))
    model = one().get_base_model()
    assert isinstance(model.tensorfact, TensorfactLayer)
    assert isinstance(model.get_submodule("tensorfact.factors.default.g"), Factors)
    with refused(AdaptError, "adapted already", "model.tensorfact.remove()"):
        adapt(model, qkv_plan(), TensorTrain(2))
    model.tensorfact.remove()
    adapt(model, qkv_plan(), TensorTrain(2), check=False)


@pytest.mark.parametrize("name", ["keys", "items", "training", "a.b"])
def test_a_name_that_a_module_cannot_have_is_refused(name: str) -> None:
    with untouched(base := tiny()), refused(AdaptError, f"adapter {name!r}", "adapter_name="):
        get_peft_model(base, TensorfactConfig(**FIRST), adapter_name=name)
    model = two()
    before = infer(model, ids())
    with refused(AdaptError, f"adapter {name!r}"):
        model.add_adapter(name, TensorfactConfig(**OTHER))
    assert list(model.peft_config) == ["default", "other"]
    assert bits(infer(model, ids())) == bits(before)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")
def test_a_layer_that_another_method_replaced_is_not_merged() -> None:
    model = two()
    inject_adapter_in_model(LoraConfig(target_modules=["qkv"]), model.get_base_model(), "lora")
    before = infer(model, ids())
    for merge in (model.merge_adapter, model.merge_and_unload):
        with refused(AdaptError, "qkv.weight' was replaced", "merge_and_unload() before"):
            merge()
        assert bits(infer(model, ids())) == bits(before)
    assert state_bits(model.unload()) == state_bits(tiny())


@pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT for a second time:UserWarning")
@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")
def test_layers_of_another_method_are_named_where_there_is_no_plan() -> None:
    def lora() -> Any:
        return get_peft_model(nano(), LoraConfig(target_modules=["qkv", "fc1"]))

    words = ("PeftModel holds adapters of peft already", "blocks.0.attn.qkv", "merge_and_unload()")
    for call in (lambda model: get_peft_model(model, TensorfactConfig(rank=2)), adapt, plan_for):
        with untouched(model := lora()), refused(NoMatchError, *words):
            call(model)
    assert plan_for(lora().unload()) == plan_for(nano())

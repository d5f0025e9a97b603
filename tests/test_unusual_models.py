"""Models in unusual states: what is done to them works exactly, or is refused by name and changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import remove_hook_from_module
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    quantize_,
)
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from tensorfact import (
    Adapter,
    AdapterState,
    Group,
    Rule,
    TensorizationPlan,
    TensorTrain,
    Tucker,
    adapt,
    extract,
    fit,
    load_adapter,
    plan_by_shape,
    plan_for,
)
from tensorfact.errors import AdaptError, FingerprintError, TensorfactError, TrainingError
from tensorfact.lab import evaluate
from tensorfact.model.values import equal_values
from tests.helpers import bits, difference, draw, infer, refused, state_bits, untouched

CPU = torch.device("cpu")
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
DATA = TensorDataset(X, torch.tensor([0, 2]))
FC1 = "blocks.0.mlp.fc1.weight"


def vit(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    options = {"img_size": 16, "patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 2, "num_classes": 3}
    return timm.create_model("vit_tiny_patch16_224", **options).eval()


PLAN = plan_for(vit())


def adapted(model: nn.Module, **options: Any) -> Adapter:
    adapter = cast("Adapter", adapt(model, PLAN, TensorTrain(3), seed=0, **options))
    draw(adapter)
    return adapter


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return difference(found, expected) <= tolerance


# ------------------------------------------------------------------------------------------------------ without values


def meta() -> Any:
    with torch.device("meta"):
        return vit()


def test_a_model_without_values_is_adapted_and_explained_but_not_run() -> None:
    model = meta()
    adapter = adapt(model, PLAN, TensorTrain(3))
    assert adapter.num_parameters == adapt(vit(), PLAN, TensorTrain(3)).num_parameters
    assert adapter.explain().choices
    for call in (lambda: fit(model, DATA, None, epochs=1), lambda: evaluate(model, DATA)):
        with refused(TrainingError, "'cls_token' is on the meta device", "to_empty"):
            call()
    with refused(AdaptError, "meta device"):
        adapter.check()


@pytest.mark.parametrize("call", ["save", "state", "round", "to_lora"])
def test_the_base_of_a_model_without_values_is_not_compared(call: str, tmp_path: Path) -> None:
    adapter = adapt(meta(), PLAN, TensorTrain(3))
    calls: dict[str, Callable[[], object]] = {
        "save": lambda: adapter.save(tmp_path / "a.safetensors"),
        "state": lambda: adapter.state,
        "round": lambda: adapter.round(rank=1),
        "to_lora": lambda: adapter.to_lora(tmp_path / "lora"),
    }
    with refused(AdaptError, "meta device", "load the model's weights"):
        calls[call]()
    assert not list(tmp_path.iterdir())


def test_a_base_without_values_is_not_taken_for_the_right_one() -> None:
    state = adapted(vit()).state
    model = meta()
    with refused(FingerprintError, "meta device"):
        load_adapter(model, state)
    assert not hasattr(model, "tensorfact")


# ---------------------------------------------------------------------------------------------------------- offloaded


def everything_on(model: nn.Module, device: str) -> dict[str, str]:
    return {name: device for name, _ in [*model.named_children(), *model.named_parameters()] if "." not in name}


OFFLOADS: dict[str, Callable[[nn.Module, Path], object]] = {
    "cpu": lambda model, _: cpu_offload(model, execution_device=CPU),
    "disk": lambda model, folder: disk_offload(model, str(folder), execution_device=CPU),
    "some blocks": lambda model, folder: dispatch_model(
        model, everything_on(model, "cpu") | {"blocks": "disk"}, main_device="cpu", offload_dir=str(folder),
        force_hooks=True,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The following device_map keys:UserWarning")  # parameters of the root
@pytest.mark.parametrize("kind", OFFLOADS)
def test_an_offloaded_model_is_not_adapted(kind: str, tmp_path: Path) -> None:
    model, state = vit(), adapted(vit()).state
    expected = infer(model, X)
    OFFLOADS[kind](model, tmp_path)
    with refused(AdaptError, "is offloaded by accelerate", "remove_hook_from_module(model, recurse=True)"):
        adapt(model, PLAN, TensorTrain(3))
    with refused(AdaptError, "is offloaded by accelerate"):
        load_adapter(model, state, check_base=False)
    with refused(FingerprintError, "offloaded"):
        load_adapter(model, state)
    assert close(infer(model, X), expected)
    assert evaluate(model, DATA) == pytest.approx(evaluate(vit(), DATA))
    remove_hook_from_module(model, recurse=True)
    adapted(model)
    assert close(infer(model, X), infer_adapted())


def infer_adapted() -> Tensor:
    model = vit()
    adapted(model)
    return infer(model, X)


@pytest.mark.parametrize("kind", ["cpu", "disk"])
def test_factors_that_were_offloaded_are_named_and_can_be_brought_back(kind: str, tmp_path: Path) -> None:
    model = vit()
    adapter = adapted(model)
    expected = infer(model, X)
    OFFLOADS[kind](model, tmp_path)
    with refused(AdaptError, "the factors of", "meta device", "remove_hook_from_module(model.tensorfact"):
        infer(model, X)
    with refused(TrainingError, "fit: the parameter", "accelerate offloaded it"):
        fit(model, DATA, None, epochs=1)
    remove_hook_from_module(model.tensorfact, recurse=True)
    assert close(infer(model, X), expected), "the base weights are loaded for each call"
    with refused(AdaptError, "cannot merge into", "offloaded"):
        adapter.merge()
    assert not adapter.merged
    assert close(infer(model, X), expected)
    remove_hook_from_module(model, recurse=True)
    model.requires_grad_(False)
    adapter.merge()
    assert close(infer(model, X), expected)
    adapter.unmerge()
    adapter.remove()
    assert state_bits(model) == state_bits(vit())
    assert close(infer(model, X), infer(vit(), X))


@pytest.mark.filterwarnings("ignore:The following device_map keys:UserWarning")
def test_blocks_may_be_offloaded_after_adapting_if_the_factors_are_not(tmp_path: Path) -> None:
    model = vit()
    adapter = adapted(model)
    expected = infer(model, X)
    OFFLOADS["some blocks"](model, tmp_path)
    assert close(infer(model, X), expected)
    torch.autograd.backward(model(X).sum())
    assert all(core.grad is not None and bool(core.grad.any()) for core in adapter.parameters())
    with refused(AdaptError, "cannot merge into", "offloaded"):
        adapter.merge()


def test_hooks_that_offload_nothing_change_nothing(tmp_path: Path) -> None:
    model = dispatch_model(vit(), {"": "cpu"}, force_hooks=True)
    adapter = adapted(model)
    assert close(infer(model, X), infer_adapted())
    adapter.save(tmp_path / "a.safetensors")
    adapter.merge()
    assert close(infer(model, X), infer_adapted())
    adapter.unmerge()
    fit(model, DATA, None, epochs=1)
    adapter.remove()
    assert close(infer(model, X), infer(vit(), X))


# ---------------------------------------------------------------------------------------------------------- quantised


def quantized() -> Any:
    model = vit()
    quantize_(model.blocks, Int8WeightOnlyConfig())
    return model


def dequantized() -> Any:
    """Return an ordinary model with the values of the quantised one."""
    model, source = vit(), dict(quantized().named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            found = source[name]
            parameter.copy_(found.dequantize() if type(found) is not nn.Parameter else found)
    return model


@pytest.mark.parametrize("route", ["auto", "activation", "formed", "weight"])
def test_a_quantised_base_is_adapted_as_its_values_are(route: Any) -> None:
    model, plain = quantized(), dequantized()
    adapters = [adapted(each, route=route) for each in (model, plain)]
    assert close(infer(model, X), infer(plain, X))
    for each in (model, plain):
        torch.autograd.backward(nn.functional.cross_entropy(each(X), torch.tensor([0, 2])))
    for mine, its in zip(*(adapter.parameters() for adapter in adapters), strict=True):
        assert mine.grad is not None
        assert its.grad is not None
        assert close(mine.grad, its.grad)
    assert adapters[0].check().effects


def test_an_adapter_of_a_quantised_base_is_saved_loaded_rounded_and_trained(tmp_path: Path) -> None:
    model, path = quantized(), tmp_path / "a.safetensors"
    adapter = adapted(model)
    expected = infer(model, X)
    adapter.save(path)
    other = quantized()
    load_adapter(other, path)
    assert torch.equal(infer(other, X), expected)
    with refused(FingerprintError, "the adapted weights"):
        load_adapter(vit(), path)
    load_adapter(plain := vit(), path, check_base=False).merge()
    assert close(infer(plain, X), expected, 0.1)
    assert torch.equal(infer(copy.deepcopy(model), X), expected)
    assert adapter.to_lora(tmp_path / "lora").layers
    assert adapter.round(rank=2).changes
    fit(model, DATA, None, epochs=1)
    adapter.remove()
    assert torch.equal(infer(model, X), infer(quantized(), X))


def test_a_quantised_base_is_not_merged_into() -> None:
    model = quantized()
    adapter = adapted(model)
    expected = infer(model, X)
    for _ in range(2):
        with refused(AdaptError, "cannot merge into 'blocks.0.attn.qkv.weight'", "quantised (Int8Tensor)"):
            adapter.merge()
        assert not adapter.merged
        assert torch.equal(infer(model, X), expected)
    with refused(AdaptError, "is not merged"):
        adapter.unmerge()


def test_quantised_weights_are_read_where_weights_are() -> None:
    found = adapt(quantized(), PLAN, TensorTrain(3), init="hosvd").named_cores()
    expected = adapt(dequantized(), PLAN, TensorTrain(3), init="hosvd").named_cores()
    assert all(close(found[name].abs(), expected[name].abs(), 1e-3) for name in found)
    increments = extract(quantized(), vit(), PLAN, TensorTrain("full"))
    assert max(increments.errors.values()) < 1e-3
    assert extract(quantized(), dequantized(), PLAN, TensorTrain(3)).state.cores("encoder")


def test_a_model_is_not_quantised_after_it_was_adapted() -> None:
    model = vit()
    adapter = adapted(model)
    quantize_(model.blocks, Int8WeightOnlyConfig())
    with refused(AdaptError, "'blocks.0.attn.qkv.weight' was quantised after adapt()", "quantise the model before"):
        infer(model, X)
    with refused(AdaptError, "quantised"):
        adapter.merge()


# ------------------------------------------------------------------------------- pruned, parametrized, normalised, tied


class Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


LATE: dict[str, Callable[[nn.Linear], object]] = {
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),  # type: ignore[no-untyped-call]
    "random prune": lambda layer: prune.random_structured(layer, "weight", 0.5, 0),  # type: ignore[no-untyped-call]
    "custom prune": lambda layer: prune.custom_from_mask(layer, "weight", layer.weight > 0),  # type: ignore[no-untyped-call]
    "parametrize": lambda layer: parametrize.register_parametrization(layer, "weight", Half()),
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old spectral_norm": nn.utils.spectral_norm,
}


@pytest.mark.parametrize("kind", LATE)
@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
def test_an_adapted_weight_is_not_replaced_by_what_is_made_of_it(kind: str, route: Any) -> None:
    model = vit()
    adapter = adapted(model, route=route)
    expected = infer(model, X)
    with untouched(model), refused(AdaptError, FC1, "cannot be parametrized, pruned or normalised"):
        LATE[kind](model.blocks[0].mlp.fc1)
    assert torch.equal(infer(model, X), expected)
    adapter.remove()
    LATE[kind](model.blocks[0].mlp.fc1)
    assert torch.isfinite(infer(model, X)).all()


def test_the_old_weight_norm_is_refused_too() -> None:
    model = vit()
    adapted(model)
    expected = infer(model, X)
    with refused(AdaptError, FC1), pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(model.blocks[0].mlp.fc1)
    assert torch.equal(infer(model, X), expected)


def test_other_parameters_of_an_adapted_layer_are_registered_and_deleted() -> None:
    model = vit()
    adapted(model)
    layer = model.blocks[0].mlp.fc1
    layer.register_parameter("other_g", nn.Parameter(torch.zeros(1)))
    del layer.other_g
    assert not hasattr(layer, "other_g")
    with refused(AdaptError, FC1):
        del layer.weight
    prune.l1_unstructured(layer, "bias", 0.5)  # type: ignore[no-untyped-call]
    assert torch.isfinite(infer(model, X)).all()


def test_a_model_that_was_pruned_before_is_adapted_exactly() -> None:
    model = vit()
    for layer in (model.blocks[0].mlp.fc1, model.blocks[1].attn.qkv):
        prune.l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
        prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
    before, base = infer(model, X), state_bits(model)
    adapter = adapted(model)
    expected = infer(model, X)
    adapter.merge()
    assert close(infer(model, X), expected)
    adapter.unmerge()
    adapter.remove()
    assert state_bits(model) == base
    assert torch.equal(infer(model, X), before)


def gpt() -> Any:
    return GPT2LMHeadModel(
        GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=30, n_positions=8, bos_token_id=0, eos_token_id=0)
    ).eval()


def bert() -> Any:
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForMaskedLM(BertConfig(**small, vocab_size=30)).eval()


@pytest.mark.parametrize(
    ("make", "embedding"),
    [(gpt, "transformer.wte.weight"), (bert, "bert.embeddings.word_embeddings.weight"), (gpt, ""), (bert, "")],
)
def test_weights_are_tied_again_after_adapting(make: Callable[[], Any], embedding: str) -> None:
    torch.manual_seed(0)
    model, ids = make(), torch.arange(6)[None]
    plan = plan_for(model)
    if embedding:
        plan = TensorizationPlan((Group("words", "words width", (Rule(embedding, "words width"),)),))
    base = state_bits(model)
    adapter = adapt(model, plan, Tucker(2), seed=0, train_head=False)
    draw(adapter)
    expected = model(ids).logits.detach()
    model.tie_weights()
    assert torch.equal(model(ids).logits, expected)
    adapter.merge()
    model.tie_weights()
    assert close(model(ids).logits, expected)
    adapter.unmerge()
    if embedding:
        with refused(AdaptError, "cannot be written through layer.weight"):
            model.resize_token_embeddings(40, mean_resizing=False)
        assert torch.equal(model(ids).logits, expected)
    adapter.remove()
    assert state_bits(model) == base


# ------------------------------------------------------------------------------------------------------ peft on top


def under_peft(model: nn.Module) -> Any:
    torch.manual_seed(3)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["fc1"], init_lora_weights=False)).eval()


def test_peft_on_an_adapted_model_is_exact_and_nothing_is_merged(tmp_path: Path) -> None:
    model, plain = vit(), vit()
    adapter, merged = adapted(model), adapted(plain)
    merged.merge()
    merged.remove()
    expected = infer(model, X)
    wrapped, reference = under_peft(model), under_peft(plain)
    both = infer(reference, X)
    assert not close(both, expected, 0.01)
    assert close(infer(wrapped, X), both)
    for call in (adapter.merge, lambda: adapter.save(tmp_path / "a.safetensors")):
        with refused(AdaptError, f"the layer of {FC1!r} was replaced"):
            call()
    for call in (wrapped.merge_adapter, wrapped.merge_and_unload):
        with refused(AdaptError, "cannot be written through layer.weight"):
            call()
        assert not adapter.merged
    assert close(infer(wrapped, X), both)


def test_what_peft_leaves_behind_is_merged_exactly() -> None:
    model = vit()
    adapter = adapted(model)
    expected = infer(model, X)
    under_peft(model).unload()
    assert torch.equal(infer(model, X), expected)
    adapter.merge()
    assert close(infer(model, X), expected)


def test_a_tracer_takes_the_effective_weight() -> None:
    model = vit()
    adapted(model, route="weight")
    expected = infer(model, X)
    with torch.no_grad():
        assert close(make_fx(model)(X)(X), expected)
        assert close(torch.export.export(model, (X,)).module()(X), expected)
        with FlopCounterMode(display=False) as counter:
            model(X)
    assert counter.get_total_flops() > 0


def test_an_effective_weight_is_read_as_an_ordinary_tensor() -> None:
    model = vit()
    adapter = adapted(model)
    weight = model.blocks[0].mlp.fc1.weight
    values = model.blocks[0].mlp.fc1._parameters["weight"] + adapter.delta(FC1)
    assert close(weight, values)
    assert bits(weight.data) == bits(weight.detach())
    assert type(weight + 0) is type(weight.detach()) is type(weight.t()) is Tensor
    assert weight.requires_grad
    for change in (0.0, weight.data):
        with refused(AdaptError, "cannot be written through layer.weight"):
            weight.data = change


WRONG: list[Any] = ["no", "", 1, 0, None]


@pytest.mark.parametrize("value", WRONG)
def test_subtract_start_is_a_flag(value: Any) -> None:
    model = vit()
    with untouched(model), refused(AdaptError, "adapt: subtract_start: expected True or False"):
        adapt(model, PLAN, TensorTrain(2), subtract_start=value)


@pytest.mark.parametrize("value", WRONG)
def test_check_base_is_a_flag(value: Any) -> None:
    state, model = adapted(vit()).state, vit()
    with untouched(model), pytest.raises(TensorfactError, match="check_base: expected True or False"):
        load_adapter(model, state, check_base=value)


@pytest.mark.parametrize("option", [{"route": "x"}, {"optimize": 5}, {"check": "no"}, {"recompute": 1}])
def test_load_adapter_is_named_in_its_messages(option: Any) -> None:
    state, model = adapted(vit()).state, vit()
    with untouched(model), refused(AdaptError, f"load_adapter: {next(iter(option))}"):
        load_adapter(model, state, **option)


def test_an_adapter_is_removed_from_a_model_without_values() -> None:
    model = meta()
    adapt(model, PLAN, TensorTrain(2)).remove()
    assert not hasattr(model, "tensorfact")


def test_a_model_without_values_is_not_merged_and_takes_no_trained_factors() -> None:
    with refused(AdaptError, "meta device"):
        adapt(meta(), PLAN, TensorTrain(2)).merge()
    state, model = adapted(vit()).state, meta()
    with refused(AdaptError, "meta device"):
        load_adapter(model, state, check_base=False)
    assert not hasattr(model, "tensorfact")


@pytest.mark.parametrize("kind", ["cpu", "disk"])
def test_merging_offloaded_factors_is_refused(kind: str, tmp_path: Path) -> None:
    model = vit()
    adapter = adapted(model)
    OFFLOADS[kind](model, tmp_path)
    with refused(AdaptError, "meta device"):
        adapter.merge()
    with pytest.raises(TensorfactError, match=r"offloaded|meta device"):
        adapter.save(tmp_path / "a.safetensors")


def test_what_was_quantised_after_adapting_is_not_saved(tmp_path: Path) -> None:
    model = vit()
    adapter = adapted(model)
    quantize_(model.blocks, Int8WeightOnlyConfig())
    with refused(AdaptError, "quantised after adapt"):
        adapter.save(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "config",
    [Int8WeightOnlyConfig, Float8WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig, IntxWeightOnlyConfig],
    ids=lambda config: config.__name__,
)
def test_a_base_that_was_quantised_in_any_way_is_adapted_and_saved_but_not_merged_into(
    config: Callable[[], Any], tmp_path: Path
) -> None:
    model, other = vit(), vit()
    for each in (model, other):
        quantize_(each.blocks, config())
    plain = infer(model, X)
    adapter = adapted(model)
    expected = infer(model, X)
    assert not close(expected, plain, 0.01)
    with refused(AdaptError, "cannot merge into 'blocks.0.attn.qkv.weight'", "quantised"):
        adapter.merge()
    adapter.save(tmp_path / "a.safetensors")
    load_adapter(other, tmp_path / "a.safetensors")
    assert torch.equal(infer(other, X), expected)
    adapter.remove()
    assert torch.equal(infer(model, X), plain)


ODD: dict[str, Callable[[], Tensor]] = {
    "COO": lambda: torch.eye(3).to_sparse(),
    "large COO": lambda: torch.eye(300).to_sparse(),
    "CSR": lambda: torch.eye(3).to_sparse_csr(),
    "CSC": lambda: torch.eye(3).to_sparse_csc(),
    "conjugate": lambda: torch.ones(3, dtype=torch.cfloat).conj(),
    "8 bits": lambda: torch.ones(8, 9).to(torch.float8_e4m3fn),
    "8 bits, large": lambda: torch.ones(300, 300).to(torch.float8_e5m2),
    "no columns": lambda: torch.empty(8, 0),
    "no rows": lambda: torch.empty(0, 8),
}


@pytest.mark.filterwarnings("ignore:Sparse CS:UserWarning")
@pytest.mark.parametrize("kind", ODD)
def test_buffers_of_every_kind_are_left_alone(kind: str, tmp_path: Path) -> None:
    def made() -> nn.Module:  # torch does not copy tensors of every layout
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(2)))
        model.register_buffer("odd", ODD[kind]())
        if "8 bits" in kind:
            model.register_parameter("odd8", nn.Parameter(ODD[kind](), requires_grad=False))
        return model

    model, fresh, base, x = made(), made(), made(), torch.randn(2, 8)
    adapter = adapt(model, plan_by_shape(model), TensorTrain(2), train_head=False)
    draw(adapter)
    adapter.check(x)
    adapter.save(tmp_path / "a.safetensors")
    assert AdapterState.load(tmp_path / "a.safetensors").head == {}
    load_adapter(fresh, tmp_path / "a.safetensors")
    assert torch.equal(fresh(x), model(x))
    with adapter.disabled():
        assert torch.equal(model(x), base(x))
    adapter.remove()
    assert torch.equal(model(x), base(x))
    assert equal_values(model.get_buffer("odd"), base.get_buffer("odd"))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_weights_of_8_bits_are_no_part_of_a_plan_and_are_refused_by_name(dtype: torch.dtype) -> None:
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
    plan = plan_by_shape(model)
    model[2].register_parameter("weight", nn.Parameter(torch.ones(8, 8).to(dtype), requires_grad=False))
    assert "2.weight" not in plan_by_shape(model).resolve(model).parameters
    with refused(AdaptError, "'2.weight'", "leave it out of the plan"):
        adapt(model, plan, TensorTrain(2), train_head=False)

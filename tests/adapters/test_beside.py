"""What trains beside the factors: it is in the file, and what `remove` and `disabled` bring back is the base model."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import peft
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tensorfact import (
    Adapter,
    AdapterState,
    Group,
    Rule,
    TensorizationPlan,
    TensorTrain,
    adapt,
    combine,
    load_adapter,
    plan_for,
)
from tensorfact.errors import AdaptError, CheckpointError, FingerprintError
from tests.helpers import difference, draw, ids, infer, refused, state_bits
from tests.strategies import Adaptation, adaptations

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def vit(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 2, "num_classes": 5}
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", **options)
    return model.eval()


def wide(seed: int = 0) -> nn.Module:
    """A ViT whose patch embedding is larger than what is kept."""
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=96, num_heads=3, depth=1, num_classes=5
    )
    return model.eval()


def convnet(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    parts = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(8 * 28 * 28, 3)).eval()


FIRST = TensorizationPlan((Group("g", "in out", (Rule("0.weight", "out in"),)),))
CONV = TensorizationPlan((Group("g", "out (in kh kw)", (Rule("3.weight", "out in kh kw"),)),))


def adapted(model: nn.Module, plan: TensorizationPlan | None = None, **options: bool | str) -> Adapter:
    plan = plan or plan_for(model)
    adapter = cast("Adapter", adapt(model, plan, TensorTrain(2), seed=0, **cast("Any", options)))
    draw(adapter)
    return adapter


def train(model: nn.Module, chosen: Callable[[str], bool], steps: int = 3, lr: float = 0.05) -> None:
    """Train the parameters chosen by their names, and all that require gradients already."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or chosen(name))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        model(X).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


# -------------------------------------------------------------------------------------------------- it is in the file


@pytest.mark.parametrize("chosen", ["norm", "bias", "cls_token", "pos_embed", "patch_embed", "head", "norm2.weight"])
@pytest.mark.parametrize("frozen_again", [False, True])
def test_what_trained_comes_back_from_the_file(tmp_path: Path, chosen: str, frozen_again: bool) -> None:
    model, twin = vit(), vit()
    adapter = adapted(model)
    train(model, lambda name: chosen in name)
    if frozen_again:
        model.requires_grad_(False)
    adapter.save(tmp_path / "a")
    loaded = load_adapter(twin, tmp_path / "a")
    assert torch.equal(infer(twin, X), infer(model, X))
    assert {name for name in AdapterState.load(tmp_path / "a").head if chosen in name}
    assert all(chosen in name or "head" in name for name in loaded.head)
    assert all(twin.get_parameter(name).requires_grad for name in loaded.head)
    loaded.remove()
    assert state_bits(twin) == state_bits(vit())


@settings(max_examples=25)
@given(adaptations(), st.data())
def test_whatever_changed_comes_back_from_the_file(adaptation: Adaptation, data: st.DataObject) -> None:
    model, adapter = adaptation.drawn()
    free = [n for n, p in model.named_parameters() if n not in adapter.resolved.parameters and "tensorfact" not in n]
    with torch.no_grad():
        for name in data.draw(st.lists(st.sampled_from(free), unique=True)):
            model.get_parameter(name).data.mul_(1.5).add_(0.1)
    twin = adaptation.case.build()
    load_adapter(twin, adapter)
    # not bit for bit: torch chooses its matrix products also by `requires_grad`, which the loaded head has
    assert difference(infer(twin, ids()), infer(model, ids())) < 1e-5
    assert state_bits(twin) == state_bits(model)
    adapter.remove()
    assert state_bits(model) == state_bits(adaptation.case.build())


def test_running_statistics_that_moved_are_in_the_file(tmp_path: Path) -> None:
    model, twin = convnet(), convnet()
    adapter = adapted(model, CONV, train_head="6")
    model.train()
    train(model, lambda _: False)
    model.eval()
    adapter.save(tmp_path / "a")
    loaded = load_adapter(twin, tmp_path / "a")
    assert torch.equal(infer(twin, X), infer(model, X))
    assert {"1.running_mean", "4.running_var", "4.num_batches_tracked"} <= set(AdapterState.load(tmp_path / "a").head)
    for each, model_of in ((adapter, model), (loaded, twin)):
        each.remove()
        assert state_bits(model_of) == state_bits(convnet())


def test_a_second_head_that_was_added_is_in_the_file(tmp_path: Path) -> None:
    model, twin, plain = vit(), vit(), vit()
    adapter = adapted(model)
    for each in (model, twin):
        each.add_module("second", nn.Linear(5, 5))
    adapter.save(tmp_path / "a")
    load_adapter(twin, tmp_path / "a")
    assert all(
        torch.equal(twin.state_dict()[name], model.state_dict()[name]) for name in ("second.weight", "second.bias")
    )
    with refused(CheckpointError, "second"):
        load_adapter(plain, tmp_path / "a")


def test_nothing_that_stayed_is_in_the_file() -> None:
    model = vit()
    adapter = adapted(model)
    train(model, lambda name: name == "norm.weight", steps=1)
    assert adapter.state.head.keys() == {"head.weight", "head.bias", "norm.weight"}


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.double, nn.Module.bfloat16])
def test_a_cast_model_stores_what_trained(cast: Callable[[nn.Module], nn.Module]) -> None:
    model = vit()
    adapter = adapted(model)
    with torch.no_grad():
        model.get_parameter("norm.weight").mul_(1.5)
    cast(model)
    assert adapter.state.head.keys() == {"head.weight", "head.bias", "norm.weight"}
    twin = cast(vit())
    load_adapter(twin, adapter)
    assert torch.equal(twin.get_parameter("norm.weight"), model.get_parameter("norm.weight"))


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])  # noqa: S301
def test_a_copy_knows_what_trained(twin_of: Callable[[nn.Module], nn.Module]) -> None:
    model = vit()
    adapted(model)
    train(model, lambda name: "norm" in name)
    twin = twin_of(model)
    other = cast("Adapter", twin.tensorfact)
    assert "norm.weight" in other.state.head
    other.remove()
    assert state_bits(twin) == state_bits(vit())


def test_an_adapted_weight_that_was_trained_itself_is_refused(tmp_path: Path) -> None:
    model = vit()
    adapter = adapted(model)
    train(model, lambda name: "fc1.weight" in name)
    with refused(AdaptError, "blocks.0.mlp.fc1.weight", "adapter.merge()", "state_dict"):
        adapter.save(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with refused(AdaptError, "blocks.0.mlp.fc1.weight"):
        adapter.remove()
    adapter.merge()
    adapter.remove()


# ----------------------------------------------------------------------------------------------- the base comes back


@settings(max_examples=25)
@given(adaptations(), st.lists(st.sampled_from(["merge", "unmerge", "disabled"]), max_size=4))
def test_the_base_comes_back_with_its_head(adaptation: Adaptation, way: list[str]) -> None:
    model, adapter = adaptation.drawn(train_head=True)
    base = adaptation.case.build()
    with torch.no_grad():
        for name in adapter.head:
            model.get_parameter(name).add_(1.0)
    trained = infer(model, ids())
    for use in way:
        if use == "disabled":
            with adapter.disabled():
                assert difference(infer(model, ids()), infer(base, ids())) < 1e-5
        elif adapter.merged == (use == "unmerge"):
            getattr(adapter, use)()
    if adapter.merged:
        adapter.unmerge()
    assert torch.equal(infer(model, ids()), trained)
    adapter.remove()
    assert state_bits(model) == state_bits(base)


def test_disabled_leaves_graphs_and_optimizers_alone() -> None:
    """Distillation from the base model: its forward pass lies between the forward and the backward pass."""
    models = [vit(), vit()]
    for model, teacher in zip(models, (False, True), strict=True):
        adapter, base = adapted(model), infer(vit(), X)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(3):
            loss = model(X).square().mean()
            if teacher:
                with adapter.disabled():
                    assert torch.equal(infer(model, X), base)
                    adapter_state = adapter.state
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if teacher:
                assert adapter_state.head["head.weight"].shape == (5, 48)
    assert state_bits(models[0]) == state_bits(models[1])


def test_the_state_in_disabled_is_the_trained_one() -> None:
    model = vit()
    adapter = adapted(model)
    train(model, lambda name: "norm" in name)
    expected = adapter.state
    with adapter.disabled():
        found = adapter.state
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(found.tensors[name], expected.tensors[name]) for name in expected.tensors)
    assert found.description == expected.description


def test_merged_weights_stay_with_the_trained_head() -> None:
    model = vit()
    adapter = adapted(model)
    train(model, lambda name: "norm" in name)
    adapter.merge()
    expected = infer(model, X)
    adapter.remove()
    assert torch.equal(infer(model, X), expected)


def test_what_is_large_and_trains_is_stored_but_not_brought_back(tmp_path: Path) -> None:
    model, twin = wide(), wide()
    adapter = adapted(model)
    train(model, lambda name: "patch_embed" in name)
    adapter.save(tmp_path / "a")
    load_adapter(twin, tmp_path / "a")
    assert torch.equal(infer(twin, X), infer(model, X))
    for use in (adapter.remove, lambda: adapter.disabled().__enter__()):
        with refused(AdaptError, "patch_embed.proj.weight", "adapter.merge()"):
            use()
        assert torch.equal(infer(twin, X), infer(model, X))
    adapter.merge()
    adapter.remove()


@pytest.mark.parametrize("size", [1 << 16, (1 << 16) + 1])
def test_tensors_of_up_to_65536_entries_are_brought_back(size: int) -> None:
    model = nn.Sequential(nn.Linear(6, 6))
    model.register_parameter("extra", nn.Parameter(torch.zeros(size)))
    adapter = adapted(model, FIRST, check=False, train_head=False)
    extra = model.get_parameter("extra")
    extra.data.add_(1)
    if size > 1 << 16:
        with refused(AdaptError, "'extra'", "large"):
            adapter.remove()
    else:
        adapter.remove()
    assert bool(extra.any()) == (size > 1 << 16)


def test_a_replaced_head_is_left_alone() -> None:
    model = vit()
    adapter = adapted(model)
    head = nn.Linear(48, 5)
    model.add_module("head", head)
    before = head.weight.clone()
    adapter.remove()
    assert model.get_submodule("head") is head
    assert torch.equal(head.weight, before)


@pytest.mark.parametrize("shape", [(1,), (), (2, 1, 144)])
def test_a_parameter_of_another_shape_is_left_alone(shape: tuple[int, ...]) -> None:
    model = vit()
    adapter = adapted(model)
    layer, bias = model.get_submodule("blocks.0.attn.qkv"), nn.Parameter(torch.ones(shape))
    layer.bias = bias
    with refused(AdaptError, "disabled()", "'blocks.0.attn.qkv.bias'"), adapter.disabled():
        pass
    adapter.remove()
    assert layer.bias is bias
    assert torch.equal(bias, torch.ones(shape))


def test_a_base_weight_that_was_written_to_is_not_in_the_file(tmp_path: Path) -> None:
    model = vit()
    adapter = adapted(model)
    with torch.no_grad():
        model.get_parameter("blocks.0.attn.qkv.weight").mul_(0.5)
        model.get_parameter("blocks.0.norm1.weight").mul_(0.5)
    adapter.save(tmp_path / "a")
    head = {name for name in AdapterState.load(tmp_path / "a").tensors if name.startswith("head.")}
    assert head == {"head.head.weight", "head.head.bias", "head.blocks.0.norm1.weight"}


@pytest.mark.parametrize(
    "write",
    [
        lambda m: m.train()(X),  # moves running statistics
        lambda m: m.get_submodule("6").reset_parameters(),
        lambda m: m.load_state_dict(convnet(5).state_dict(), strict=False),
    ],
)
def test_what_is_written_in_disabled_is_lost(write: Callable[[nn.Module], object]) -> None:
    model = convnet()
    adapter = adapted(model, CONV, train_head="6")
    with torch.no_grad(), adapter.disabled():
        model.get_submodule("6").get_parameter("weight").add_(1)
        model.get_submodule("1").get_buffer("running_mean").add_(1)
    with adapter.disabled():
        assert torch.equal(infer(model, X), infer(convnet(), X))
    with torch.no_grad(), adapter.disabled():
        write(model)
    model.eval()
    kept = {name: bits for name, bits in state_bits(convnet()).items() if not name.startswith("3.")}
    adapter.remove()
    assert {name: bits for name, bits in state_bits(model).items() if name in kept} == kept


@pytest.mark.parametrize("twin_of", [copy.deepcopy, pickle.dumps, lambda m: copy.deepcopy(m.tensorfact)])
def test_a_disabled_model_is_not_copied(twin_of: Callable[[nn.Module], object]) -> None:
    model = vit()
    adapter = adapted(model)
    expected = infer(model, X)
    with refused(AdaptError, "copied or pickled", "disabled()"), adapter.disabled():
        twin_of(model)
    assert torch.equal(infer(copy.deepcopy(model), X), expected)


def test_a_model_that_is_cast_in_disabled_is_cast_whole() -> None:
    model = vit()
    adapter = adapted(model)
    with adapter.disabled():
        model.double()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert infer(model, X.double()).dtype == torch.float64


def test_a_large_tensor_that_trained_and_is_frozen_again_is_no_base() -> None:
    model = wide()
    adapter = adapted(model)
    train(model, lambda name: "patch_embed.proj.weight" in name)
    model.requires_grad_(False)
    with refused(AdaptError, "patch_embed.proj.weight"), adapter.disabled():
        pass


@pytest.mark.parametrize(
    "change", [lambda t: t.flip(0), lambda t: t.flip(-1), lambda t: t.roll(1, 0), lambda t: t.neg()]
)
def test_values_that_change_places_are_a_change(change: Callable[[Tensor], Tensor]) -> None:
    model = wide()
    adapter = adapted(model)
    weight = model.get_parameter("patch_embed.proj.weight")
    with torch.no_grad():
        weight.copy_(change(weight))
    assert "patch_embed.proj.weight" in adapter.state.head


def test_a_replaced_head_has_no_base_to_go_back_to() -> None:
    model = vit()
    adapter = adapted(model)
    model.add_module("head", nn.Linear(48, 5))
    with refused(AdaptError, "head.weight"), adapter.disabled():
        pass


# ------------------------------------------------------------------------------------------------- loading into a model


@pytest.mark.parametrize("loaded", [{}, {"cls_token": torch.ones(1, 1, 48)}])
def test_only_what_is_loaded_is_the_base(loaded: dict[str, Tensor]) -> None:
    model = vit()
    adapter = adapted(model)
    train(model, lambda name: name == "norm.weight")
    model.load_state_dict(loaded, strict=False)
    assert adapter.state.head.keys() == {"head.weight", "head.bias", "norm.weight"}
    adapter.remove()
    base = vit()
    base.load_state_dict(loaded, strict=False)
    assert state_bits(model) == state_bits(base)


def test_another_base_is_not_loaded_into_a_merged_model() -> None:
    model = vit()
    adapter = adapted(model)
    adapter.merge()
    merged = state_bits(model)
    with refused(AdaptError, "merged", "adapter.unmerge()"):
        model.load_state_dict(vit(1).state_dict(), strict=False)
    assert state_bits(model) == merged
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    adapter.unmerge()
    adapter.remove()
    assert state_bits(model) == state_bits(vit())


def test_a_tensor_that_was_added_is_stored() -> None:
    model = vit()
    adapter = adapted(model)
    model.register_buffer("late", torch.ones(3))
    assert "late" in adapter.state.head


def test_adapters_of_one_base_are_combined_whatever_trained_beside_them() -> None:
    one, two, other = vit(), vit(), vit(1)
    first, second, third = adapted(one), adapted(two), adapted(other)
    train(one, lambda name: "norm" in name)
    combine({first.state: 0.5, second.state: 0.5})
    with refused(FingerprintError, "the adapted weights"):
        combine({first.state: 0.5, third.state: 0.5})


def test_a_head_that_cannot_be_written_leaves_the_model_as_it_was() -> None:
    state, model = adapted(vit()).state, vit()
    model.get_submodule("head").register_parameter("weight", nn.Parameter(torch.zeros(1).expand(5, 48)))
    with pytest.raises(RuntimeError):
        load_adapter(model, state, check_base=False)
    assert not hasattr(model, "tensorfact")


@pytest.mark.parametrize("assign", [False, True])
def test_a_base_that_is_loaded_afterwards_is_the_base(tmp_path: Path, assign: bool) -> None:
    model, twin = wide(1), wide()
    adapter = adapted(model)
    model.load_state_dict(wide().state_dict(), strict=False, assign=assign)
    adapter.save(tmp_path / "a")
    assert AdapterState.load(tmp_path / "a").head.keys() == {"head.weight", "head.bias"}
    load_adapter(twin, tmp_path / "a")
    assert torch.equal(infer(twin, X), infer(model, X))
    adapter.remove()
    assert state_bits(model) == state_bits(wide())


def test_a_training_checkpoint_that_is_loaded_trained(tmp_path: Path) -> None:
    model, resumed = vit(), vit()
    adapted(model)
    train(model, lambda name: "norm" in name)
    adapter = adapted(resumed)
    for name, parameter in resumed.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or "norm" in name)
    resumed.load_state_dict(model.state_dict())
    adapter.save(tmp_path / "a")
    twin = vit()
    load_adapter(twin, tmp_path / "a")
    assert torch.equal(infer(twin, X), infer(model, X))
    adapter.remove()
    assert state_bits(resumed) == state_bits(vit())


# ------------------------------------------------------------------------------------------------------------- to LoRA


def test_a_trained_norm_goes_into_a_lora_folder(tmp_path: Path) -> None:
    model = vit()
    adapter = adapted(model)
    train(model, lambda name: name.startswith("blocks.0.norm1"))
    adapter.to_lora(tmp_path / "lora")
    loaded = peft.PeftModel.from_pretrained(vit(), tmp_path / "lora").eval()
    assert torch.allclose(infer(loaded, X), infer(model, X), atol=1e-5)


def test_running_statistics_go_into_a_lora_folder(tmp_path: Path) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).eval()

    model, x = build(), torch.randn(32, 6) * 3 + 1
    adapter = adapted(model, FIRST, train_head="2")
    model.train()(x)
    model.eval()
    adapter.to_lora(tmp_path / "lora")
    loaded = peft.PeftModel.from_pretrained(build(), tmp_path / "lora").eval()
    assert torch.allclose(infer(loaded, x), infer(model, x), atol=1e-5)


@pytest.mark.parametrize("name", ["cls_token", "pos_embed"])
def test_what_peft_cannot_store_is_refused_by_name(tmp_path: Path, name: str) -> None:
    model = vit()
    adapter = adapted(model)
    train(model, lambda each: each == name)
    with refused(AdaptError, name, "head=False"):
        adapter.to_lora(tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


def test_bits_of_every_dtype_are_compared() -> None:
    tensors = itertools.product([torch.float64, torch.float32, torch.float16, torch.bfloat16], [0, 1])
    for dtype, at in tensors:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).to(dtype)
        adapter = adapt(
            model, TensorizationPlan((Group("g", "in out", (Rule("0.weight", "out in"),)),)), TensorTrain(1)
        )
        parameter: Tensor = model.get_parameter(f"{at}.bias")
        parameter.data[0] += 1
        assert adapter.state.head.keys() == {f"{at}.bias"}

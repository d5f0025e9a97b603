"""Real timm models: whether a linear layer is called or its weight read, the adapter acts, and timm goes on working."""

from __future__ import annotations

import copy
import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn

from tensorfact import (
    CP,
    Adapter,
    Format,
    Group,
    MatrixBatch,
    Rule,
    TensorizationPlan,
    TensorTrain,
    Tucker,
    adapt,
    load_adapter,
    plan_for,
)
from tensorfact.errors import TensorfactError
from tensorfact.lab import nano
from tensorfact.storage.description import AdapterDescription
from tests.helpers import bits, difference, draw, infer, randomise, state_bits

KNOWN = ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224")
FORMATS = (TensorTrain(4), Tucker(4), CP(4), MatrixBatch(2))
EFFECT = 1e-3
"""An adapter that is silently dead changes nothing at all; these change the largest output by far more than this."""

SMALL = {"depth": 2, "embed_dim": 96, "num_heads": 3, "num_classes": 7}
READ: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {**SMALL, "img_size": 32},
    "eva02_base_patch14_224": {**SMALL, "img_size": 28, "qkv_fused": True},
    "swinv2_tiny_window8_256": {
        "depths": (2, 1), "embed_dim": 24, "num_heads": (2, 4), "img_size": 64, "window_size": 4, "num_classes": 7,
    },
}  # fmt: skip
"""Models whose fused qkv layer is never called: its weight is read."""


SHORT: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"depth": 4},
    "swin_tiny_patch4_window7_224": {"depths": (2, 2, 2, 2)},
}
"""Models with fewer blocks than usual."""


@functools.cache
def original(name: str) -> nn.Module:
    """Return one randomised model of a name; tests take copies."""
    model: nn.Module = timm.create_model(name, **READ.get(name, SHORT.get(name, {})))
    return randomise(model).eval()


def create(name: str) -> nn.Module:
    return copy.deepcopy(original(name))


def image(name: str, batch: int = 2) -> Tensor:
    size = READ.get(name, {}).get("img_size", 224)
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def base_state(model: nn.Module) -> dict[str, bytes]:
    return {name: held for name, held in state_bits(model).items() if not name.startswith("tensorfact.")}


def hand_written(name: str) -> TensorizationPlan:
    """Return a plan over the fused qkv weights, k frozen, and the projections."""
    swin = name.startswith("swin")
    prefix = "layers.{stage}.blocks.{layer}" if swin else "blocks.{layer}"
    rules = (
        Rule(f"{prefix}.attn.qkv.weight", "(role out) in", role=["q", None, "v"]),
        Rule(f"{prefix}.attn.proj.weight", "out in", role="o"),
    )
    group = Group("attention", "(layer role) in out", rules, "stage" if swin else None)
    return TensorizationPlan((group,))


# ------------------------------------------------------------------------------------------------------ known families


@pytest.mark.parametrize("name", KNOWN)
def test_a_fresh_adapter_changes_no_bit(name: str) -> None:
    model, x = create(name).requires_grad_(False), image(name)
    expected, base = infer(model, x), base_state(model)
    for format in FORMATS:
        adapter = adapt(model, plan_for(model), format, seed=0)
        assert torch.equal(infer(model, x), expected)
        assert list(base_state(model)) == list(base)
        adapter.remove()
    assert base_state(model) == base


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_adapted_equals_merged_and_unmerges_bit_for_bit(name: str, format: Format) -> None:
    model, x = create(name).requires_grad_(False), image(name)
    base, plain = base_state(model), infer(model, x)
    adapter = adapt(model, plan_for(model), format, seed=0)
    draw(adapter)
    adapted = infer(model, x)
    assert difference(adapted, plain) > EFFECT
    adapter.merge()
    assert difference(infer(model, x), adapted) < 1e-4
    adapter.unmerge()
    assert base_state(model) == base
    assert torch.equal(infer(model, x), adapted)


@pytest.mark.parametrize("name", KNOWN)
def test_bf16_unmerges_bit_for_bit(name: str) -> None:
    model = create(name).to(torch.bfloat16)
    base = base_state(model)
    adapter = adapt(model, plan_for(model), TensorTrain(4), seed=0)
    draw(adapter)
    for _ in range(3):
        adapter.merge()
        assert base_state(model) != base
        adapter.unmerge()
        assert base_state(model) == base


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    model(x).square().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", [*KNOWN, *READ])
def test_gradients_reach_every_factor_and_the_head_alone(name: str) -> None:
    model, x = create(name), image(name)
    plan = hand_written(name) if name in READ else plan_for(model)
    adapter = adapt(model, plan, Tucker(2), seed=0)
    draw(adapter)
    found = gradients(model, x)
    reached = {name for name, gradient in found.items() if gradient is not None and gradient.abs().max() > 0}
    factors = {f"tensorfact.{name}" for name, _ in adapter.named_parameters()}
    assert reached == factors | set(adapter.head)
    assert {name for name, gradient in found.items() if gradient is not None} == reached


# ------------------------------------------------------------------------------------------ weights that are only read


@pytest.mark.parametrize("name", READ)
def test_the_fused_weight_is_read_and_never_called(name: str) -> None:
    """If timm changes that, these models no longer test what they are here for."""
    model, calls = create(name), []
    for path, module in model.named_modules():
        if path.endswith("attn.qkv"):
            module.register_forward_hook(lambda *arguments, path=path: calls.append(path))
    infer(model, image(name))
    assert any(path.endswith("attn.qkv.weight") for path, _ in model.named_parameters())
    assert not calls


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("route", ["auto", "weight"])
@pytest.mark.parametrize("format", [TensorTrain(2), MatrixBatch(2)], ids=str)
def test_a_weight_that_is_only_read_is_adapted_too(name: str, route: Any, format: Format) -> None:
    model, x = create(name).requires_grad_(False), image(name)
    plain, base = infer(model, x), base_state(model)
    adapter = adapt(model, hand_written(name), format, route=route, seed=0)
    assert torch.equal(infer(model, x), plain)
    draw(adapter)
    adapted = infer(model, x)
    assert difference(adapted, plain) > EFFECT
    adapter.merge()
    assert difference(infer(model, x), adapted) < 1e-4
    adapter.unmerge()
    assert base_state(model) == base


# ---------------------------------------------------------------------------------------------- timm's own conveniences


@pytest.fixture
def vit() -> tuple[nn.Module, Adapter]:
    """Return a small adapted ViT with factors that change it."""
    model = nano()
    adapter = adapt(model, plan_for(model), TensorTrain(4), seed=0)
    draw(adapter)
    return model, adapter


X = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_features_come_from_the_adapted_model(vit: tuple[nn.Module, Adapter]) -> None:
    model, adapter = vit
    with torch.no_grad():
        features = cast("Any", model).forward_features(X)
        with adapter.disabled():
            assert difference(cast("Any", model).forward_features(X), features) > EFFECT
        assert torch.equal(cast("Any", model).forward_head(features), infer(model, X))


def test_a_new_classifier_trains_and_is_saved(vit: tuple[nn.Module, Adapter], tmp_path: Any) -> None:
    model, adapter = vit
    cast("Any", model).reset_classifier(5)
    assert model(X).shape == (2, 5)
    assert all(model.get_parameter(name).requires_grad for name in adapter.head)
    adapter.save(tmp_path / "file")
    assert AdapterDescription.read(tmp_path / "file").shapes["head.head.bias"] == (5,)
    twin = nano(num_classes=5)
    load_adapter(twin, tmp_path / "file")
    assert torch.equal(infer(twin, X), infer(model, X))


def test_a_classifier_that_was_taken_off_cannot_be_saved(vit: tuple[nn.Module, Adapter], tmp_path: Any) -> None:
    model, adapter = vit
    cast("Any", model).reset_classifier(0)
    assert model(X).shape == (2, 96)
    with pytest.raises(TensorfactError):
        adapter.save(tmp_path / "file")


@pytest.mark.parametrize("name", ["nano", "swin_tiny_patch4_window7_224"])
def test_gradient_checkpointing_gives_the_same_gradients(name: str) -> None:
    results = []
    for checkpointing in (False, True):
        model, x = (nano(), X) if name == "nano" else (create(name), image(name, batch=1))
        adapter = adapt(model, plan_for(model), TensorTrain(2), dropout=0.3, seed=0)
        draw(adapter)
        model.train()
        cast("Any", model).set_grad_checkpointing(checkpointing)
        torch.manual_seed(0)
        results.append({n: g for n, g in gradients(model, x).items() if g is not None})
    plain, checkpointed = results
    assert plain.keys() == checkpointed.keys()
    assert all(difference(checkpointed[name], plain[name]) < 1e-4 for name in plain)


def test_a_copy_stands_on_its_own(vit: tuple[nn.Module, Adapter]) -> None:
    model, adapter = vit
    twin = copy.deepcopy(model)
    adapted = infer(model, X)
    assert torch.equal(infer(twin, X), adapted)
    cast("Adapter", twin.tensorfact).remove()
    assert difference(infer(twin, X), adapted) > EFFECT
    assert torch.equal(infer(twin, X), infer(nano(), X))
    assert torch.equal(infer(model, X), adapted)
    assert bits(adapter.delta("blocks.0.attn.qkv.weight")) != b""


def test_functional_call_works(vit: tuple[nn.Module, Adapter]) -> None:
    model, _ = vit
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    changed = {
        **state,
        "tensorfact.factors.encoder.cores.V": torch.zeros_like(state["tensorfact.factors.encoder.cores.V"]),
    }
    with torch.no_grad():
        assert torch.equal(torch.func.functional_call(model, state, (X,)), infer(model, X))
        assert difference(torch.func.functional_call(model, changed, (X,)), infer(nano(), X)) < 1e-5


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch's own attention under vmap
def test_per_sample_gradients_by_vmap(vit: tuple[nn.Module, Adapter]) -> None:
    model, adapter = vit
    factors = {f"tensorfact.{name}": p.detach() for name, p in adapter.named_parameters()}

    def loss(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        return cast("Tensor", torch.func.functional_call(model, values, (sample[None],))).square().mean()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(factors, X)
    whole = [torch.func.grad(loss)(factors, sample) for sample in X]
    for name, gradient in each.items():
        assert difference(gradient, torch.stack([one[name] for one in whole])) < 1e-4


@pytest.mark.slow
def test_the_example_trains_with_three_lines_beside_timms_parts(tmp_path: Path) -> None:
    path = Path(__file__).parent.parent / "examples" / "train_timm.py"
    assert sum(line.endswith("# tensorfact") for line in path.read_text().splitlines()) == 3
    command = [sys.executable, str(path), "--epochs", "1", "--out", str(tmp_path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"test accuracy ([\d.]+), of the folder of \d\d kB ([\d.]+)", printed)
    assert found
    assert found[1] == found[2]

"""`load_state_dict` on a part of an adapted model is checked and recorded as on the whole model."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from tensorfact import Adapter, TensorTrain, adapt, load_adapter, plan_for
from tensorfact.errors import AdaptError
from tests.helpers import draw, infer, refused, state_bits

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
PARTS = ["blocks.0", "blocks", "blocks.1.attn.qkv"]


def vit(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 2, "num_classes": 5}
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", **options)
    return model.eval()


def adapted(model: nn.Module) -> Adapter:
    adapter = adapt(model, plan_for(model), TensorTrain(2), seed=0)
    draw(adapter)
    return adapter


def values(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor.clone() for name, tensor in module.state_dict().items()}


def merged(adapter: Adapter, part: nn.Module) -> dict[str, Tensor]:
    adapter.merge()
    found = values(part)
    adapter.unmerge()
    return found


def around(part: nn.Module, state: Mapping[str, Tensor]) -> object:
    """Load through a module that holds the part, as a wrapper for training does."""
    return nn.ModuleDict({"inner": part}).load_state_dict({f"inner.{name}": value for name, value in state.items()})


LOADS: list[Callable[[nn.Module, Mapping[str, Tensor]], object]] = [
    lambda part, state: part.load_state_dict(state),
    lambda part, state: part.load_state_dict(state, assign=True),
    around,
]


@pytest.mark.parametrize("path", PARTS)
@pytest.mark.parametrize("load", LOADS, ids=["copy", "assign", "around"])
def test_merged_weights_are_not_loaded_into_a_part(
    path: str, load: Callable[[nn.Module, Mapping[str, Tensor]], object]
) -> None:
    model = vit()
    adapter = adapted(model)
    part = model.get_submodule(path)
    state, before, expected = merged(adapter, part), state_bits(model), infer(model, X)
    for _ in range(2):
        with refused(AdaptError, "W + s dW", "adapter.remove()"):
            load(part, state)
    with refused(AdaptError, "W + s dW"), adapter.disabled():
        load(part, state)
    assert state_bits(model) == before
    assert torch.equal(infer(model, X), expected)
    load(part, values(part))
    assert torch.equal(infer(model, X), expected)


def test_each_part_of_one_load_is_looked_at() -> None:
    model = vit()
    adapter = adapted(model)
    states = [merged(adapter, model.get_submodule(f"blocks.{at}")) for at in range(2)]
    both = nn.ModuleList([model.get_submodule(f"blocks.{at}") for at in range(2)])
    first = {f"0.{name}": value for name, value in values(both[0]).items()}
    with refused(AdaptError, "'blocks.1."):
        both.load_state_dict(first | {f"1.{name}": value for name, value in states[1].items()})


@pytest.mark.parametrize("path", PARTS)
def test_another_base_is_not_loaded_into_a_part_of_a_merged_model(path: str) -> None:
    model = vit()
    adapter = adapted(model)
    adapter.merge()
    before, part = state_bits(model), model.get_submodule(path)
    with refused(AdaptError, "merged", "blocks.", "adapter.unmerge()"):
        part.load_state_dict(vit(1).get_submodule(path).state_dict())
    assert state_bits(model) == before
    part.load_state_dict(values(part))
    adapter.unmerge()
    adapter.remove()
    assert state_bits(model) == state_bits(vit())


@pytest.mark.parametrize("path", [*PARTS, "norm", "patch_embed"])
@pytest.mark.parametrize("assign", [False, True])
def test_a_base_that_is_loaded_into_a_part_is_the_base(path: str, assign: bool, tmp_path: Path) -> None:
    model, base = vit(), vit()
    adapter = adapted(model)
    state = vit(1).get_submodule(path).state_dict()
    base.get_submodule(path).load_state_dict(state)
    model.get_submodule(path).load_state_dict(state, assign=assign)
    assert adapter.state.head.keys() == {"head.weight", "head.bias"}
    adapter.save(tmp_path / "a")
    twin = copy.deepcopy(base)
    load_adapter(twin, tmp_path / "a")
    assert torch.equal(infer(twin, X), infer(model, X))
    adapter.remove()
    assert state_bits(model) == state_bits(base)


def test_a_trained_part_that_is_loaded_is_in_the_file() -> None:
    model = vit()
    adapter = adapted(model)
    model.get_parameter("norm.weight").requires_grad_(True)
    for name in ("head", "norm"):
        part = model.get_submodule(name)
        part.load_state_dict({key: value + 1 for key, value in part.state_dict().items()})
    assert adapter.state.head.keys() == {"head.weight", "head.bias", "norm.weight"}
    adapter.remove()
    expected = vit().state_dict()
    assert torch.equal(model.state_dict()["head.weight"], expected["head.weight"])
    assert torch.equal(model.state_dict()["norm.weight"], expected["norm.weight"])


def test_a_base_loaded_while_disabled_does_not_make_the_trained_head_the_base() -> None:
    model = vit()
    adapter = adapted(model)
    with torch.no_grad():
        model.get_parameter("head.weight").add_(1)
    with adapter.disabled():
        model.load_state_dict(vit().state_dict(), strict=False)
    adapter.remove()
    assert state_bits(model) == state_bits(vit())


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])  # noqa: S301
def test_a_copy_is_looked_after_by_itself(twin_of: Callable[[nn.Module], nn.Module]) -> None:
    model = vit()
    adapter = adapted(model)
    part = model.get_submodule("blocks.0")
    state = merged(adapter, part)
    part.load_state_dict(values(part))
    twin = twin_of(model)
    adapter.remove()
    part.load_state_dict(state)
    with refused(AdaptError, "W + s dW"):
        twin.get_submodule("blocks.0").load_state_dict(state)
    other = twin.tensorfact
    assert isinstance(other, Adapter)
    other.remove()
    twin.get_submodule("blocks.0").load_state_dict(state)
    assert not any(module._load_state_dict_pre_hooks or module._load_state_dict_post_hooks for module in twin.modules())

"""LoRA out: peft itself loads the written folders as the oracle; layers that cannot be exported are named."""

from __future__ import annotations

import copy
import os
import re
import warnings
from pathlib import Path
from typing import Any, cast

import peft
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from tensorfact import (
    CP,
    Format,
    Group,
    MatrixBatch,
    Rule,
    TensorizationPlan,
    TensorTrain,
    Tucker,
    adapt,
    extract,
    from_lora,
    load_adapter,
    plan_for,
    to_lora,
)
from tensorfact.errors import AdaptError, CheckpointError, DataError
from tests.bundled import gates, nano
from tests.helpers import difference, draw, infer, layers, layers_plan, randomise, refused, untouched
from tests.lora.saved import vit

KINDS = [TensorTrain(4), Tucker(4), CP(6), MatrixBatch(2)]


def in_peft(base: nn.Module, folder: Path) -> Any:
    """Load a folder into a copy of a model as a user of peft does; nothing may be missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("format", KINDS, ids=str)
def test_peft_gives_the_same_logits_merged_and_unmerged_and_they_come_back(format: Format, tmp_path: Path) -> None:
    base, model, x = vit(), vit(), torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    adapter = adapt(model, plan_for(model), format, scale=3.0, seed=0)
    draw(adapter, size=0.1)
    with torch.no_grad():
        model.head.bias.add_(1.0)
    expected = infer(model, x)
    written = adapter.to_lora(tmp_path)
    assert max(layer.error for layer in written.layers) < 1e-12
    exported = in_peft(base, tmp_path)
    assert difference(infer(exported, x), expected) < 1e-5
    assert difference(infer(exported.merge_and_unload(), x), expected) < 1e-5

    again = format if isinstance(format, CP) else type(format)("full")  # type: ignore[call-arg]
    tolerance = None if isinstance(format, CP) else 1e-6
    found = from_lora(base, tmp_path, adapter.plan, again, tolerance=tolerance)
    assert found.parameters == adapter.num_parameters
    assert found.shrank == pytest.approx(written.parameters / found.parameters)
    load_adapter(base, found.state)
    assert difference(infer(base, x), expected) < 1e-5


def test_names_that_end_alike_get_their_own_matrices(tmp_path: Path) -> None:
    """peft finds modules by the ends of their names, and ranks by patterns."""
    inner = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    base = randomise(inner)
    rules = [Rule(f"{path}.weight", "out in", layer=at) for at, path in enumerate(("0", "2.1"))]
    plan = TensorizationPlan(tuple(Group(f"g{at}", "layer in out", (rule,)) for at, rule in enumerate(rules)))
    model = copy.deepcopy(base)
    adapter = adapt(model, plan, {"g0": MatrixBatch(3), "g1": MatrixBatch(1)}, seed=0, check=False)
    draw(adapter)
    adapter.to_lora(tmp_path)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert difference(infer(in_peft(base, tmp_path), x), infer(model, x)) < 1e-5


def test_gpt2_and_frozen_slots(tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=40, n_positions=8)
    base = randomise(transformers.GPT2Model(config)).eval()
    rule = Rule("h.{layer}.attn.c_attn.weight", "in (role out)", role=["q", None, "v"])
    plan = TensorizationPlan((Group("qv", "(layer role) in out", (rule,)),))
    model = copy.deepcopy(base)
    adapter = adapt(model, plan, TensorTrain(3), seed=0)
    draw(adapter)
    written = to_lora(adapter, model, tmp_path)
    assert {layer.rank for layer in written.layers} == {3}
    tokens = torch.arange(6)[None]
    expected = model(tokens).last_hidden_state.detach()
    assert difference(in_peft(base, tmp_path)(tokens).last_hidden_state.detach(), expected) < 1e-5
    found = from_lora(base, tmp_path, plan, TensorTrain("full"), tolerance=1e-6)
    assert found.parameters == adapter.num_parameters
    load_adapter(base, found.state)
    assert difference(base(tokens).last_hidden_state.detach(), expected) < 1e-5


def test_no_numbers_of_the_model_are_needed(tmp_path: Path) -> None:
    model = vit()
    adapter = adapt(model, plan_for(model), TensorTrain(2), seed=0)
    draw(adapter)
    adapter.save(tmp_path / "a.safetensors")
    with torch.device("meta"):
        shapes = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    for name, model_ in (("one", model), ("two", shapes)):
        to_lora(tmp_path / "a.safetensors", model_, tmp_path / name)
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


NOT_LORA = {
    "convolution": ("resnet10t", "layer in out h w", Rule("layer1.0.conv{layer}.weight", "out in h w")),
    "read, not called": ("beit_base_patch16_224", "layer in out", Rule("blocks.{layer}.attn.qkv.weight", "out in")),
    "'bias' of Linear": ("vit_tiny_patch16_224", "layer out", Rule("blocks.{layer}.attn.proj.bias", "out")),
}


@pytest.mark.parametrize("case", NOT_LORA)
def test_what_cannot_be_lora_is_named(case: str, tmp_path: Path) -> None:
    name, modes, rule = NOT_LORA[case]
    model = timm.create_model(name, num_classes=2).eval()
    plan = TensorizationPlan((Group("g", modes, (rule,)),))
    adapter = adapt(model, plan, CP(2), train_head=False, check=False)
    with (
        untouched(model),
        refused(AdaptError, "cannot be exported", "Conv2d" if case == "convolution" else case),
    ):
        adapter.to_lora(tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


def test_a_bias_that_is_stored_beside_lora_is_named(tmp_path: Path) -> None:
    base = randomise(layers(3, 6))
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        cast("nn.Linear", tuned[0]).bias.add_(1.0)
    state = extract(base, tuned, layers_plan(), CP(2), keep=True).state
    with refused(AdaptError, "'0.bias'", "head=False"):
        to_lora(state, base, tmp_path / "lora")
    assert len(to_lora(state, base, tmp_path / "lora", head=False).layers) == 3


def test_a_head_whose_name_ends_another_s_is_named(tmp_path: Path) -> None:
    model = nn.ModuleDict({"body": nn.Linear(6, 6), "head": nn.Linear(6, 2), "aux_head": nn.Linear(6, 2)})
    plan = TensorizationPlan((Group("g", "layer in out", (Rule("body.weight", "out in", layer=0),)),))
    adapter = adapt(model, plan, MatrixBatch(2), train_head="head", check=False)
    with refused(AdaptError, "aux_head", "head=False"):
        adapter.to_lora(tmp_path / "lora")
    assert not (tmp_path / "lora").exists()
    assert adapter.to_lora(tmp_path / "lora", head=False).path


@pytest.mark.parametrize("rank", [0, -1, "full", 0.5, (2,), True])
def test_a_rank_that_is_none_is_refused(rank: Any, tmp_path: Path) -> None:
    model = randomise(layers(3, 6))
    adapter = adapt(model, layers_plan(), TensorTrain(2), check=False)
    with refused(AdaptError, "to_lora: rank"):
        adapter.to_lora(tmp_path / "lora", rank=rank)


def test_a_folder_that_cannot_be_written_is_refused_and_left_alone(tmp_path: Path) -> None:
    model = randomise(layers(3, 6))
    adapter = adapt(model, layers_plan(), TensorTrain(2), check=False)
    (tmp_path / "a" / "adapter_config.json").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for folder in ("", "a\0b", tmp_path / "a", tmp_path / "file"):
        with refused(CheckpointError, "folder"):
            adapter.to_lora(folder)
    assert not (tmp_path / "a" / "adapter_model.safetensors").exists()


def test_a_difference_is_no_lora(tmp_path: Path) -> None:
    adapter = gates(nano())
    with refused(AdaptError, "convert"):
        adapter.to_lora(tmp_path / "lora")


def small_adapter() -> tuple[nn.Module, Any]:
    model = randomise(layers(3, 8))
    adapter = adapt(model, layers_plan(), TensorTrain(2), seed=0, check=False)
    draw(adapter)
    return model, adapter


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("before", ["nothing", "another adapter", "another's files"])
def test_a_folder_is_written_whole_or_not_at_all(
    before: str, failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, adapter = small_adapter()
    folder = tmp_path / "lora"
    if before == "another adapter":
        other = adapt(randomise(layers(3, 8)), layers_plan(), MatrixBatch(1), seed=0, check=False)
        draw(other)
        other.to_lora(folder)
    elif before == "another's files":
        folder.mkdir()
        (folder / "README.md").write_text("old")
    old = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None
    name = "rename" if old is None else "replace"
    move, calls = getattr(os, name), []

    def fail(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == (1 if old is None else failing):
            raise OSError(28, "No space left on device")
        move(source, target)

    monkeypatch.setattr(os, name, fail)
    with refused(CheckpointError, str(folder), "No space"):
        to_lora(adapter, model, folder)
    monkeypatch.undo()
    assert (old is None) is not folder.exists()
    assert old is None or {path.name: path.read_bytes() for path in folder.iterdir()} == old
    assert os.listdir(tmp_path) == ([] if old is None else ["lora"])

    to_lora(adapter, model, folder)
    base = randomise(layers(3, 8))
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert difference(infer(in_peft(base, folder), x), infer(model, x)) < 1e-5
    assert before != "another's files" or (folder / "README.md").read_text() == "old"


@pytest.mark.parametrize("name", ["fifo", "device", "x" * 300, "file"])
def test_what_is_no_folder_is_refused_before_anything_is_computed(name: str, tmp_path: Path) -> None:
    model, adapter = small_adapter()
    path = tmp_path / name
    if name == "fifo":
        os.mkfifo(path)
    elif name == "device":
        path.symlink_to("/dev/null")
    elif name == "file":
        path.write_text("old")
    with refused(CheckpointError, str(path)[:99]):
        to_lora(adapter, model, path)
    with pytest.raises((CheckpointError, DataError), match=re.escape(str(path)[:99])):
        from_lora(model, path, adapter.plan, TensorTrain(2))
    assert name != "file" or path.read_text() == "old"


@pytest.mark.parametrize("names", [["norm"], ["norm", "head"], ["blocks.0.norm1", "norm"]])
def test_norms_that_were_trained_go_to_peft_with_the_head(names: list[str], tmp_path: Path) -> None:
    """Modules without parameters whose names end alike, as `patch_embed.norm` does, are no obstacle."""
    model = vit()
    base = copy.deepcopy(model)
    adapter = adapt(model, plan_for(model, blocks="attention"), TensorTrain(2), seed=0, train_head=names)
    draw(adapter)
    with torch.no_grad():
        for name in adapter.head:
            model.get_parameter(name).add_(0.1)
    adapter.to_lora(tmp_path)
    x = torch.randn(1, 3, 224, 224)
    assert difference(infer(in_peft(base, tmp_path), x), infer(model, x)) < 1e-5


def test_a_disabled_adapter_is_not_exported(tmp_path: Path) -> None:
    _, adapter = small_adapter()
    with adapter.disabled(), refused(AdaptError, "the adapter is disabled", "outside"):
        adapter.to_lora(tmp_path / "a")


@pytest.mark.slow  # importing diffusers takes seconds
def test_diffusers_loads_the_folder_itself(tmp_path: Path) -> None:
    import diffusers

    unet: Any = diffusers.UNet2DConditionModel
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    sizes = {"sample_size": 8, "block_out_channels": (8, 16), "cross_attention_dim": 8, "attention_head_dim": 2}
    base: Any = randomise(unet(**blocks, **sizes, layers_per_block=1, norm_num_groups=4)).eval()
    model = copy.deepcopy(base)
    groups = []
    for name in ("to_q", "to_v"):
        path = f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.{name}.weight"
        groups.append(Group(name, "layer in out", (Rule(path, "out in", layer=0),)))
    formats = {"to_q": MatrixBatch(2), "to_v": MatrixBatch(3)}
    adapter = adapt(model, TensorizationPlan(tuple(groups)), formats, scale=2.0, train_head=False, check=False)
    draw(adapter)
    adapter.to_lora(tmp_path)
    base.load_lora_adapter(tmp_path, weight_name="adapter_model.safetensors", prefix="base_model.model")
    x = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 5, 8)
    with torch.no_grad():
        assert difference(base(*x).sample, model(*x).sample) < 1e-5
        with adapter.disabled():
            assert difference(base(*x).sample, model(*x).sample) > 1e-4

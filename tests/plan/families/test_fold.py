"""The known families: the counts of the papers on real models, created without allocating a number."""

from __future__ import annotations

import contextlib
import copy
import re
from typing import Any, cast

import pytest
import timm
import torch
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
    plan_by_shape,
    plan_for,
)
from tensorfact.errors import NoMatchError, PlanError
from tensorfact.lab import nano
from tensorfact.lab.models import make_model
from tests.helpers import Tiny, difference, draw, layers, refused, untouched
from tests.plan.families.members import MEMBERS, outline


def count(name: str, format: Format, blocks: Any = "all") -> int:
    model = outline(name)
    return plan_for(model, blocks).resolve(model).num_parameters(format)


@pytest.mark.parametrize(
    ("format", "published"),
    [
        *zip(map(TensorTrain, (1, 2, 4, 8, 16, 32)), (1_680, 3_648, 8_448, 21_504, 61_440, 196_608), strict=True),
        *zip(map(Tucker, (1, 2, 4, 8, 16, 32)), (1_681, 3_368, 6_784, 13_952, 30_976, 86_528), strict=True),
        (MatrixBatch(8), 1_769_472),
    ],
    ids=str,
)
def test_the_paper_s_counts_on_vit_b16(format: Format, published: int) -> None:
    assert count("vit_base_patch16_224", format) == published


@pytest.mark.parametrize(("blocks", "published"), [("attention", 36_864), ("mlp", 49_152), ("all", 61_440)])
def test_the_paper_s_counts_of_attention_and_mlp(blocks: str, published: int) -> None:
    assert count("vit_base_patch16_224", TensorTrain(16), blocks) == published


def picked(*labels: str | None) -> TensorizationPlan:
    rule = Rule("blocks.{layer}.attn.qkv.weight", "(role out) in", role=labels)
    return TensorizationPlan((Group("picked", "(layer role) in out", (rule,)),))


@pytest.mark.parametrize(
    ("method", "format", "published"),
    [
        ("LoRA", MatrixBatch(8), 294_912),
        ("LoTR", TensorTrain(2), 3_168),
    ],
)
def test_relatives_on_q_and_v(method: str, format: Format, published: int) -> None:
    resolved = picked("q", None, "v").resolve(outline("vit_base_patch16_224"))
    assert resolved.num_parameters(format) == published


@pytest.mark.parametrize(("rank", "published"), [(8, 6_880), (20, 17_200)])
def test_lorta_splits_the_inputs_into_heads(rank: int, published: int) -> None:
    qkv = Rule("blocks.{layer}.attn.qkv.weight", "(role out) (head dim)", role=["q", "k", "v"])
    proj = Rule("blocks.{layer}.attn.proj.weight", "out (head dim)", role="o")
    group = Group("attention", "out dim head role layer", (qkv, proj), axis_sizes={"head": 12})
    resolved = TensorizationPlan((group,)).resolve(outline("vit_base_patch16_224"))
    assert resolved.num_parameters(CP(rank)) == published


@pytest.mark.parametrize(("rank", "published"), [(8, 13_184), (64, 155_648)])
def test_metatt_is_a_train_over_input_layer_matrix_output(rank: int, published: int) -> None:
    rule = Rule("blocks.{layer}.attn.qkv.weight", "(role out) in", role=["q", None, "v"])
    resolved = TensorizationPlan((Group("g", "in layer role out", (rule,)),)).resolve(outline("vit_base_patch16_224"))
    assert resolved.num_parameters(TensorTrain(rank)) == published


def test_swin_b_is_one_tensor_a_stage() -> None:
    model = outline("swin_base_patch4_window7_224")
    resolved = plan_for(model).resolve(model)
    shapes = [(24, 128, 128), (24, 256, 256), (216, 512, 512), (24, 1024, 1024)]
    assert [tensor.shape for tensor in resolved.tensors] == shapes
    counts = [TensorTrain(16).num_parameters(tensor.modes) for tensor in resolved.tensors]
    assert counts == [10_240, 14_336, 71_680, 38_912]
    assert resolved.num_parameters(TensorTrain(16)) == 135_168
    assert not any("downsample" in name or "relative_position" in name for name in resolved.parameters)


def test_mixer_b_folds_token_and_channel_mlps_apart() -> None:
    model = outline("mixer_b16_224")
    tokens, channels = plan_for(model).resolve(model).tensors
    assert tokens.shape == (24, 196, 384)
    assert channels.shape == (96, 768, 768)
    with refused(PlanError, "mixer", "attention"):
        plan_for(model, "attention")


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224", "deit_small_patch16_224", "deit3_base_patch16_224", "vit_large_patch14_clip_224",
        "swin_tiny_patch4_window7_224", "swin_large_patch4_window12_384", "swinv2_tiny_window8_256", "mixer_s32_224",
        "mixer_l16_224", "beit_base_patch16_224",
    ],
)  # fmt: skip
@pytest.mark.parametrize("blocks", ["all", "mlp"])
def test_a_plan_covers_every_matrix_of_its_blocks(name: str, blocks: Any) -> None:
    model = outline(name)
    covered = set(plan_for(model, blocks).resolve(model).parameters)
    words = ("mlp",) if blocks == "mlp" else ("attn", "mlp")
    matrices = {
        n
        for n, p in model.named_parameters()
        if p.dim() == 2 and n.endswith("weight") and any(w in n for w in words) and "cpb" not in n
    }
    assert covered == matrices


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", MEMBERS)
def test_a_block_is_what_its_layers_are(name: str) -> None:
    """Attention by its name, kernels by their modules, and the MLPs are what is left; no weight is in two blocks."""
    with torch.device("meta"):
        model = make_model(name, **MEMBERS[name][1].small)
    found = {}
    for block in ("attention", "mlp", "conv", "depthwise", "experts"):
        with contextlib.suppress(PlanError):  # the family has no such block
            found[block] = plan_for(model, cast("Any", block)).resolve(model).parameters
    every = [parameter for parameters in found.values() for parameter in parameters]
    assert sorted(every) == sorted(plan_for(model, ["all", "depthwise", "experts"]).resolve(model).parameters)
    for block, parameters in found.items():
        for parameter in parameters:
            module = model.get_submodule(parameter.rpartition(".")[0])
            kernel = isinstance(module, nn.Conv2d)
            attends = "mlp" not in parameter and re.search("att|token_mixer.(qkv|proj)", parameter, re.IGNORECASE)
            depthwise = kernel and cast("nn.Conv2d", module).weight.shape[1] == 1
            assert (block == "depthwise") == depthwise, parameter
            assert (block == "experts") == (".experts." in parameter), parameter
            assert kernel or block in ("attention", "mlp", "experts"), parameter
            assert bool(attends) == (block == "attention") or block == "depthwise", parameter


def test_a_large_eva_without_gates_is_folded() -> None:
    model = outline("eva_giant_patch14_224", depth=2)
    resolved = plan_for(model, "mlp").resolve(model)
    assert set(resolved.parameters) == {f"blocks.{layer}.mlp.fc{k}.weight" for layer in range(2) for k in (1, 2)}


def test_the_plan_is_the_one_in_the_readme_and_survives_json() -> None:
    model = outline("vit_base_patch16_224")
    plan = plan_for(model)
    up, down = ([f"{name}{k}" for k in range(4)] for name in ("up", "down"))
    rules = (
        Rule("blocks.{layer}.attn.qkv.weight", "(role out) in", role=["q", "k", "v"]),
        Rule("blocks.{layer}.attn.proj.weight", "out in", role="o"),
        Rule("blocks.{layer}.mlp.fc1.weight", "(role out) in", role=up),
        Rule("blocks.{layer}.mlp.fc2.weight", "out (role in)", role=down),
    )
    assert plan == TensorizationPlan((Group("encoder", "(layer role) in out", rules),))
    assert TensorizationPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("model", "fix"),
    [
        (Tiny(), "plan_by_shape(model), which folds"),
        (layers(), "plan_by_shape(model), which folds"),
        (nn.ReLU(), "write a TensorizationPlan"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_unknown_family_is_refused(model: nn.Module, fix: str) -> None:
    with untouched(model), refused(NoMatchError, type(model).__name__, "vit", "swin", fix):
        plan_for(model)


def test_a_model_of_a_family_s_names_but_not_its_shapes_is_refused() -> None:
    with torch.device("meta"):
        model = cast("nn.Module", timm.create_model("swin_tiny_patch4_window7_224"))
    cast("Any", model).layers[0].blocks[1].attn.proj = nn.Linear(96, 100, device="meta")
    with refused(PlanError, "swin family", "(100, 96)", "plan_by_shape"):
        plan_for(model)


def test_no_family_is_a_fallback_for_half_a_model() -> None:
    """A CAFormer whose attention does not fit has the MLPs of other families too, which would be half of it."""
    with torch.device("meta"):
        model = cast("nn.Module", timm.create_model("caformer_s18"))
    cast("Any", model).stages[2].blocks[0].token_mixer.qkv = nn.Linear(320, 900, device="meta")
    with refused(PlanError, "metaformer family"):
        plan_for(model)


def test_a_family_is_found_wherever_it_stands() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.ModuleDict({"net": outline("vit_tiny_patch16_224")})
            self.right = outline("deit3_small_patch16_224")

    one, two = nn.ModuleDict({"backbone": outline("vit_tiny_patch16_224")}), Pair()
    assert {t.name: t.shape for t in plan_for(one).resolve(one).tensors} == {"encoder": (144, 192, 192)}
    found = {t.name: t.shape for t in plan_for(two).resolve(two).tensors}
    assert found == {"left_net_encoder": (144, 192, 192), "right_encoder": (144, 384, 384)}
    chain = nn.Sequential(outline("vit_tiny_patch16_224"), nn.Linear(1000, 3))
    assert plan_for(chain).resolve(chain)["encoder"].shape == (144, 192, 192)


def test_towers_of_several_families_are_all_found() -> None:
    with torch.device("meta"):
        text = make_model("hf:bert", num_hidden_layers=2)
    model = nn.ModuleDict({"image": outline("vit_tiny_patch16_224"), "text": text})
    found = {t.name: t.shape for t in plan_for(model).resolve(model).tensors}
    assert found == {"image_encoder": (144, 192, 192), "text_encoder": (24, 768, 768)}


def test_a_minor_part_of_a_model_makes_no_family() -> None:
    """HRNet's first stage has the names of a ResNet's, and is a hundredth of it."""
    with refused(NoMatchError, "matches resnet", "plan_by_shape"):
        plan_for(outline("hrnet_w18_small"))
    resolved = plan_by_shape(outline("hrnet_w18_small")).resolve(outline("hrnet_w18_small"))
    assert resolved["kernels2d[16,16,3,3]"].shape == (16, 16, 16, 3, 3)
    assert 0 < resolved.share < 1


def test_queries_keys_and_values_of_unequal_sizes_are_not_cut_into_three() -> None:
    model = outline("vit_tiny_patch16_224", num_classes=3)
    model = copy.deepcopy(model)
    for layer in cast("Any", model).blocks:
        layer.attn.qkv = nn.Linear(192, 192 + 48 + 48, device="meta")
    with refused(PlanError, "(288, 192)", "q, k, v"):
        plan_for(model)


def test_a_module_at_two_places_is_claimed_by_its_first_name() -> None:
    model = nano()
    blocks = cast("Any", model).blocks
    blocks[2] = blocks[0]
    resolved = plan_for(model).resolve(model)
    assert resolved["encoder"].shape == (60, 96, 96)
    shared = nn.Linear(8, 8)
    chain = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(8, 8))
    chain.add_module("last", nn.Linear(8, 8))
    tensors = plan_by_shape(chain).resolve(chain).tensors
    assert [(t.name, t.shape) for t in tensors] == [("matrices[8,8]", (3, 8, 8))]
    adapter = adapt(chain, plan_by_shape(chain), TensorTrain(2), seed=0)
    draw(adapter)
    adapted = chain(torch.ones(2, 8))
    adapter.merge()
    assert difference(chain(torch.ones(2, 8)), adapted) < 1e-5


@pytest.mark.parametrize("model", ["vit_base_patch16_224", None, nn.Linear, {}], ids=repr)
def test_what_is_no_model_is_refused(model: Any) -> None:
    for function in (plan_for, plan_by_shape):
        with refused(PlanError, "torch.nn.Module", fix=False):
            function(model)
    with refused(PlanError, "no shape yet"):
        plan_by_shape(nn.Sequential(nn.LazyLinear(3)))


@pytest.mark.parametrize(
    ("blocks", "names"),
    [
        ("all", {"stages"}),
        (["all", "depthwise"], {"stages", "depthwise"}),
        (["depthwise"], {"depthwise"}),
        (("mlp", "mlp"), {"stages"}),
    ],
)
def test_depthwise_kernels_are_folded_on_request(blocks: Any, names: set[str]) -> None:
    model = outline("convnext_atto")
    assert {tensor.group for tensor in plan_for(model, blocks).resolve(model).tensors} == names


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("vit_base_patch16_224", {"encoder": (48, 768, 768), "encoder_mlp": (24, 768, 3072)}),
        ("swin_tiny_patch4_window7_224", {
            "stages[0]": (8, 96, 96), "stages[1]": (8, 192, 192), "stages[2]": (24, 384, 384),
            "stages[3]": (8, 768, 768), "stages_mlp[0]": (4, 96, 384),
            "stages_mlp[1]": (4, 192, 768), "stages_mlp[2]": (12, 384, 1536),
            "stages_mlp[3]": (4, 768, 3072),
        }),
    ],
)  # fmt: skip
def test_an_mlp_stays_whole_on_request(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    model = outline(name)
    assert {t.name: t.shape for t in plan_for(model, mlp="whole").resolve(model).tensors} == shapes
    with refused(PlanError, "'half'", fix=False):
        plan_for(model, mlp=cast("Any", "half"))


def test_one_mlp_that_cannot_be_cut_keeps_all_whole() -> None:
    model = copy.deepcopy(outline("swin_tiny_patch4_window7_224"))
    for block in cast("Any", model).layers[1].blocks:
        block.mlp.fc1, block.mlp.fc2 = nn.Linear(192, 300, device="meta"), nn.Linear(300, 192, device="meta")
    shapes = {tensor.name: tensor.shape for tensor in plan_for(model).resolve(model).tensors}
    assert shapes["stages[1]"] == (8, 192, 192)
    assert [shapes[f"stages_mlp[{at}]"] for at in range(2)] == [(4, 96, 384), (4, 192, 300)]


@pytest.mark.parametrize("blocks", ["attn", "", None, ["mlp", "heads"], [], 3])
def test_unknown_blocks_are_refused(blocks: Any) -> None:
    with refused(PlanError, repr(blocks), fix=False):
        plan_for(nano(), blocks)


@pytest.mark.parametrize("missing", ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"])
def test_a_model_without_a_part_of_its_family_is_refused(missing: str) -> None:
    model = copy.deepcopy(outline("vit_tiny_patch16_224"))
    for block in cast("Any", model).blocks:
        owner, _, name = missing.partition(".")
        setattr(block.get_submodule(owner), name, nn.Identity())
    with refused(NoMatchError, "plan_by_shape"):
        plan_for(model)

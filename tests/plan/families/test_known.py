"""Every known family on a real, small member with random weights: the plan fits, the adapter is live and exact.

A family added to `FAMILIES` is tested here without a change, except for its published shapes.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.coverage import COMMON
from tensorfact import TensorizationPlan, TensorTrain, adapt, plan_for
from tensorfact.model.example import ExampleInput
from tensorfact.model.outputs import numbers
from tensorfact.plan.families import FAMILIES, Blocks, Example
from tests.helpers import difference, draw, state_bits
from tests.plan.families.members import MEMBERS, example_of, folded, member, original, published

EVERYTHING: list[Blocks] = ["all", "depthwise", "experts"]
FORMAT = TensorTrain(2)

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "resmlp_12_224": {"tokens": (12, 196, 196), "channels": (96, 384, 384)},
    "gmlp_ti16_224": {"tokens": (30, 196, 196), "channels": (270, 128, 128)},
    "mixer_s32_224": {"tokens": (16, 49, 256), "channels": (64, 512, 512)},
    "cait_xxs24_224": {"encoder": (288, 192, 192), "token": (24, 192, 192)},
    "xcit_nano_12_p16_224": {"encoder": (144, 128, 128), "token": (24, 128, 128)},
    "vit_base_patch16_224": {"encoder": (144, 768, 768)},
    "deit3_small_patch16_224": {"encoder": (144, 384, 384)},
    "beit_base_patch16_224": {"encoder": (144, 768, 768)},
    "beitv2_base_patch16_224": {"encoder": (144, 768, 768)},
    "eva02_base_patch14_224": {"encoder": (48, 768, 768), "encoder_mlp": (36, 768, 2048)},
    "eva02_tiny_patch14_224": {"encoder": (48, 192, 192), "encoder_mlp": (36, 192, 512)},
    "hiera_tiny_224": {
        "encoder[96,96]": (12, 96, 96), "encoder[96,192]": (3, 96, 192), "encoder[192,192]": (21, 192, 192),
        "encoder[192,384]": (3, 192, 384), "encoder[384,384]": (81, 384, 384), "encoder[384,768]": (3, 384, 768),
        "encoder[768,768]": (21, 768, 768),
    },
    "swin_base_patch4_window7_224": {
        "stages[0]": (24, 128, 128), "stages[1]": (24, 256, 256), "stages[2]": (216, 512, 512),
        "stages[3]": (24, 1024, 1024),
    },
    "swinv2_tiny_window8_256": {
        "stages[0]": (24, 96, 96), "stages[1]": (24, 192, 192), "stages[2]": (72, 384, 384),
        "stages[3]": (24, 768, 768),
    },
    "pvt_v2_b1": {
        "stages[0]": (40, 64, 64), "stages[1]": (40, 128, 128), "stages[2]": (24, 320, 320),
        "stages[3]": (24, 512, 512),
    },
    "caformer_s18": {
        "stages[0]": (36, 64, 64), "stages[1]": (36, 128, 128), "stages[2]": (108, 320, 320),
        "stages[3]": (36, 512, 512),
    },
    "convformer_s18": {
        "stages[0]": (36, 64, 64), "stages[1]": (36, 128, 128), "stages[2]": (108, 320, 320),
        "stages[3]": (36, 512, 512),
    },
    "maxvit_rmlp_pico_rw_256": {
        "attention[32,32]": (48, 32, 32), "attention[64,64]": (48, 64, 64), "attention[128,128]": (120, 128, 128),
        "attention[256,256]": (48, 256, 256), "convs[32,128]": (5, 32, 128), "convs[64,128]": (1, 64, 128),
        "convs[64,256]": (3, 64, 256), "convs[128,256]": (1, 128, 256), "convs[128,512]": (9, 128, 512),
        "convs[256,512]": (1, 256, 512), "convs[256,1024]": (2, 256, 1024),
    },
    "coatnet_nano_rw_224": {
        "attention[128,128]": (3, 128, 128), "attention[128,256]": (1, 128, 256), "attention[256,256]": (71, 256, 256),
        "attention[256,512]": (1, 256, 512), "attention[512,512]": (32, 512, 512), "convs[64,256]": (7, 64, 256),
        "convs[128,256]": (1, 128, 256), "convs[128,512]": (6, 128, 512),
    },
    "mvitv2_tiny": {
        "stages[96,96]": (12, 96, 96), "stages[96,192]": (3, 96, 192), "stages[192,192]": (21, 192, 192),
        "stages[192,384]": (3, 192, 384), "stages[384,384]": (57, 384, 384), "stages[384,768]": (3, 384, 768),
        "stages[768,768]": (21, 768, 768),
    },
    "convnext_tiny": {
        "stages[0]": (24, 96, 96), "stages[1]": (24, 192, 192), "stages[2]": (72, 384, 384),
        "stages[3]": (24, 768, 768),
    },
    "convnextv2_atto": {
        "stages[0]": (16, 40, 40), "stages[1]": (16, 80, 80), "stages[2]": (48, 160, 160), "stages[3]": (16, 320, 320),
    },
    "resnet18": {
        "kernels[64,64,3,3]": (4, 64, 64, 3, 3), "kernels[64,128,3,3]": (1, 64, 128, 3, 3),
        "kernels[128,128,3,3]": (3, 128, 128, 3, 3), "kernels[128,256,3,3]": (1, 128, 256, 3, 3),
        "kernels[256,256,3,3]": (3, 256, 256, 3, 3), "kernels[256,512,3,3]": (1, 256, 512, 3, 3),
        "kernels[512,512,3,3]": (3, 512, 512, 3, 3),
    },
    "hf:vit": {"encoder": (144, 768, 768)},
    "hf:dinov2": {"encoder": (144, 768, 768)},
    "hf:clip": {"text_model_encoder": (144, 512, 512), "vision_model_encoder": (144, 768, 768)},
    "hf:bert": {"encoder": (144, 768, 768)},
    "hf:gpt2": {"decoder": (144, 768, 768)},
    "hf:llama": {"decoder[4096,4096]": (128, 4096, 4096), "decoder_mlp[4096,11008]": (96, 4096, 11008)},
    "hf:t5": {"encoder_blocks[512,512]": (72, 512, 512), "decoder_blocks[512,512]": (96, 512, 512)},
    "hf:dinov3_vit": {"encoder": (144, 384, 384)},
    "hf:deberta-v2": {"encoder": (288, 1536, 1536)},
    "hf:mpnet": {"encoder": (144, 768, 768)},
    "hf:distilbert": {"encoder": (72, 768, 768)},
    "hf:albert": {"encoder": (12, 4096, 4096)},
    "hf:modernbert": {"encoder": (88, 768, 768), "encoder_mlp": (66, 768, 1152)},
    "hf:wav2vec2": {"encoder": (144, 768, 768)},
    "hf:gptj": {"decoder": (336, 4096, 4096)},
    "hf:gpt_neox": {"decoder": (528, 6144, 6144)},
    "hf:bloom": {"decoder": (24, 64, 64)},
    "hf:falcon": {"decoder[4544,1,64]": (32 * 73, 4544, 64), "decoder[4544,1,4544]": (288, 4544, 4544)},
    "hf:mixtral": {"decoder[4096,1024]": (64, 4096, 1024), "decoder[4096,4096]": (64, 4096, 4096)},
    "hf:phi": {"decoder[2048,2048]": (288, 2048, 2048)},
    "hf:phi3": {"decoder[3072,3072]": (128, 3072, 3072), "decoder_mlp[3072,8192]": (96, 3072, 8192)},
    "hf:opt": {"layers": (144, 768, 768)},
    **{
        name: {"encoder_layers": (144, 1024, 1024), "decoder_layers": (192, 1024, 1024)}
        for name in ("hf:bart", "hf:mbart", "hf:marian")
    },
    "hf:whisper": {"encoder_layers": (48, 384, 384), "decoder_layers": (64, 384, 384)},
    **{
        name: {
            "stages[0]": (24, 96, 96), "stages[1]": (24, 192, 192), "stages[2]": (72, 384, 384),
            "stages[3]": (24, 768, 768),
        }
        for name in ("hf:swin", "hf:convnext", "hf:dinov3_convnext")
    },
    "hf:segformer": {
        "stages[0]": (24, 32, 32), "stages[1]": (24, 64, 64), "stages[2]": (24, 160, 160), "stages[3]": (24, 256, 256),
        "reductions[32,32,8,8]": (2, 32, 32, 8, 8), "reductions[64,64,4,4]": (2, 64, 64, 4, 4),
        "reductions[160,160,2,2]": (2, 160, 160, 2, 2),
    },
    "torch:Transformer": {"encoder_layers": (72, 512, 512), "decoder_layers": (96, 512, 512)},
}  # fmt: skip
"""Tensors of published members; the rest of the members are held against what every plan must keep."""

SHARES = {"mixtral": 0.02}
"""The least share of the weights in the plan, in default configuration; elsewhere it is 0.85."""


def run(model: nn.Module, example: ExampleInput) -> Tensor:
    with torch.no_grad():
        return numbers(model(*example.arguments, **example.keywords))


def train_count(tensor: Any, rank: int) -> int:
    """Return the closed form of a tensor-train: r (first + last) + r^2 (all between), the modes by side."""
    sizes: list[int] = [mode.size for side in ("in", "stack", "out") for mode in tensor.modes if mode.side == side]
    return rank * (sizes[0] + sizes[-1]) + rank**2 * sum(sizes[1:-1])


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", MEMBERS)
def test_a_published_member_folds_whole(name: str) -> None:
    model = published(name)
    plan, resolved = folded(name)
    found = {tensor.name: tensor.shape for tensor in resolved.tensors}
    assert found == SHAPES.get(name, found)
    sizes = {n: parameter.numel() for n, parameter in model.named_parameters()}
    assert sum(math.prod(shape) for shape in found.values()) == sum(sizes[n] for n in resolved.parameters)
    assert resolved.num_parameters(TensorTrain(1)) == sum(train_count(tensor, 1) for tensor in resolved.tensors)
    assert set(resolved.parameters) | {left.parameter for left in resolved.left_out} >= set(sizes)
    assert not set(resolved.parameters) & {left.parameter for left in resolved.left_out}
    assert TensorizationPlan.from_json(plan.to_json()) == plan


COSTLY = {"convformer_s18", "caformer_s18", "mvitv2_tiny", "coatnet_nano_rw_224"}
"""Members whose smallest version takes seconds."""


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in COSTLY else name for name in MEMBERS]
)
def test_a_fresh_adapter_changes_no_bit_and_a_drawn_one_is_live_and_exact(name: str) -> None:
    model = member(name)
    example = example_of(model)
    plain, state = run(model, example), state_bits(model)
    adapter = adapt(model, plan_for(model, EVERYTHING), FORMAT, train_head=False, seed=0)
    assert torch.equal(run(model, example), plain)
    assert [key for key in model.state_dict() if not key.startswith("tensorfact.")] == list(state)
    assert adapter.num_parameters == sum(train_count(tensor, 2) for tensor in adapter.resolved.tensors)

    draw(adapter)
    adapted = run(model, example)
    assert difference(adapted, plain) > 1e-3
    adapter.merge()
    assert difference(run(model, example), adapted) < 1e-4
    adapter.unmerge()

    model.zero_grad()
    with torch.enable_grad():
        output = model(*example.arguments, **example.keywords)
        floats = [tensor for tensor in tensors(output) if tensor.requires_grad]
        loss: Any = torch.stack([tensor.square().mean() for tensor in floats]).sum()
        loss.backward()
    reached = {n for n, p in adapter.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == {n for n, _ in adapter.named_parameters()}
    adapter.remove()
    assert state_bits(model) == state


def tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return list(itertools.chain.from_iterable(tensors(value) for value in values))


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", MEMBERS)
def test_whole_and_cut_mlps_fold_the_same_parameters(name: str) -> None:
    model = original(name)
    cut, whole = (plan_for(model, mlp=mlp).resolve(model) for mlp in ("chunks", "whole"))
    assert set(cut.parameters) == set(whole.parameters)


def test_the_common_types_of_transformers_are_forty_two() -> None:
    assert len(set(COMMON)) == len(COMMON) == 42


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", COMMON)
def test_a_common_type_of_transformers_is_known(name: str) -> None:
    _, resolved = folded(f"hf:{name}")
    assert SHARES.get(name, 0.85) < resolved.share <= 1


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_an_entry_names_what_every_member_has(family: Any) -> None:
    assert any(not part.optional for part in family.parts)
    assert family.examples
    assert all(isinstance(example, Example) for example in family.examples)

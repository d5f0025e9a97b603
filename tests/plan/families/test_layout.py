"""What families know of a model: its towers, and the blocks of a fused weight."""

from __future__ import annotations

import pytest
from torch import nn

from tensorfact.plan.families import FAMILIES
from tensorfact.plan.families.layout import FusedWeight, chunks, conflicting_layout, towers
from tests.plan.families.members import member

NAMES = [
    f"{tower}blocks.{layer}.{name}.weight"
    for tower in ("", "visual.")
    for layer in range(2)
    for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
]


def test_a_tower_is_a_prefix_with_every_required_part() -> None:
    assert towers(FAMILIES["vit"], NAMES) == ["", "visual."]
    assert towers(FAMILIES["vit"], [name for name in NAMES if "visual.blocks.0.attn.proj" not in name]) == [
        "",
        "visual.",
    ]
    assert towers(FAMILIES["vit"], [name for name in NAMES if not name.startswith("visual.blocks")]) == [""]
    assert towers(FAMILIES["vit"], [name for name in NAMES if "fc2" not in name]) == []
    assert towers(FAMILIES["gpt2"], NAMES) == []


def test_chunks_are_square_blocks_of_a_label() -> None:
    parts = {part.param.rpartition("{layer}.")[2]: part for part in FAMILIES["vit"].parts}
    assert chunks(parts["attn.qkv.weight"], (24, 8)) == 1
    assert chunks(parts["mlp.fc1.weight"], (32, 8)) == 4
    assert chunks(parts["mlp.fc2.weight"], (8, 32)) == 4
    assert chunks(parts["attn.qkv.weight"], (20, 8)) == 0


@pytest.mark.parametrize(
    ("name", "shape", "dim", "count", "found"),
    [
        ("blocks.1.attn.qkv.weight", (24, 8), 0, 2, FusedWeight("vit", ("q", "k", "v"))),
        ("visual.blocks.1.attn.qkv.weight", (24, 8), 0, 4, FusedWeight("vit", ("q", "k", "v"))),
        ("blocks.1.attn.qkv.weight", (24, 8), 0, 6, None),
        ("blocks.1.attn.qkv.weight", (24, 8), 1, 2, None),
        ("blocks.1.attn.qkv.weight", (20, 8), 0, 2, None),
        ("blocks.1.mlp.fc1.weight", (32, 8), 0, 3, None),
        ("other.1.attn.qkv.weight", (24, 8), 0, 2, None),
        ("audio.blocks.1.attn.qkv.weight", (24, 8), 0, 2, None),
    ],
)
def test_a_number_of_labels_conflicts_with_the_blocks_of_a_tower(
    name: str, shape: tuple[int, ...], dim: int, count: int, found: FusedWeight | None
) -> None:
    assert conflicting_layout(name, shape, dim, count, nn.Module(), NAMES) == found


def test_the_plan_of_every_family_has_the_labels_of_its_blocks() -> None:
    for name in ("pvt_v2_b1", "torch:Transformer"):
        model = member(name)
        names = [each for each, _ in model.named_parameters()]
        fused = [each for each in names if each.endswith(("attn.kv.weight", "in_proj_weight"))]
        assert fused
        for each in fused:
            shape = tuple(model.get_parameter(each).shape)
            assert conflicting_layout(each, shape, 0, shape[0] // shape[1], model, names) is None
            assert conflicting_layout(each, shape, 0, 5, model, names) is not None


def test_a_name_whose_prefix_has_a_number_is_no_tower() -> None:
    assert towers(FAMILIES["vit"], [f"a.0.{name}" for name in NAMES if not name.startswith("visual")]) == []

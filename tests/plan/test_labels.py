"""What labels cover, and labels that divide a fused weight elsewhere than between its blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import timm
from torch import nn

from tensorfact import Group, Rule, TensorizationPlan, plan_for
from tensorfact.errors import PlanError
from tensorfact.lab import nano
from tensorfact.plan.labels import check_labels, covered
from tests.helpers import refused, untouched
from tests.plan.families.members import member

QKV = "blocks.{layer}.attn.qkv.weight"


def plan_of(param: str, pattern: str, modes: str = "(layer role) in out", **labels: Any) -> TensorizationPlan:
    return TensorizationPlan((Group("g", modes, (Rule(param, pattern, **labels),)),))


@pytest.mark.parametrize(
    ("pattern", "labels", "sizes", "words"),
    [
        ("(role out) in", ["q", "k", "v"], {"role": 3, "out": 4, "in": 8}, "4 rows each"),
        ("out (role in)", ["a", None], {"role": 2, "out": 4, "in": 8}, "8 columns each"),
        ("(part role out) in", ["a", "b"], {"part": 3, "role": 2, "out": 4, "in": 8}, "3 x 4 rows each"),
        ("(role out) in kh kw", ["a", "b"], {"role": 2, "out": 5, "in": 8}, "5 indices of dimension 0 each"),
        ("(out role) in", ["a", "b"], {"role": 2, "out": 5, "in": 8}, "5 x 1 rows each"),
    ],
)
def test_what_a_label_covers(pattern: str, labels: list[str | None], sizes: dict[str, int], words: str) -> None:
    assert covered(Rule("w", pattern, role=labels), "role", sizes) == words


def test_the_table_says_what_labels_cover() -> None:
    text = str(plan_for(nano()).resolve(nano()))
    assert "role=q,k,v (96 rows each)" in text
    assert "role=down0,down1,down2,down3 (96 columns each)" in text
    assert "role=o " in text


@pytest.mark.parametrize(("count", "shown"), [(4, 4), (8, 8), (16, 8), (32, 8)])
def test_at_most_eight_labels_are_listed(count: int, shown: int) -> None:
    labels = [f"l{k}" for k in range(count)]
    with pytest.raises(PlanError) as caught:
        plan_of(QKV, "(role out) in", role=labels).resolve(nano())
    assert f"'l{shown - 1}'" in str(caught.value)
    assert f"'l{shown}'" not in str(caught.value)


@pytest.mark.parametrize("labels", [["q", "k"], ["q", None], ["a", "b", "c", "d"], [None, "x", "y", "z"]])
def test_labels_that_cross_the_blocks_of_a_fused_weight_are_refused(labels: list[str | None]) -> None:
    model, size = nano(), 288 // len(labels)
    words = [f"role={labels}", "(288, 96)", "3 blocks as in vit", "'v' rows 192..287", f"rows 0..{size - 1}"]
    with untouched(model), refused(PlanError, *words, "role=['q', 'k', 'v']"):
        plan_of(QKV, "(role out) in", role=labels).resolve(model)


@pytest.mark.parametrize(
    ("name", "param", "pattern", "family"),
    [
        ("swin_base_patch4_window7_224", "layers.{layer}.blocks.0.attn.qkv.weight", "(role out) in", "swin"),
        ("hf:gpt2", "h.{layer}.attn.c_attn.weight", "in (role out)", "gpt2"),
        (
            "torch:Transformer",
            "encoder.layers.{layer}.self_attn.in_proj_weight",
            "(role out) in",
            "torch.nn.MultiheadAttention",
        ),
    ],
)
def test_every_family_knows_its_blocks(name: str, param: str, pattern: str, family: str) -> None:
    model = member(name)
    param = next(n for n, _ in model.named_parameters() if n.endswith(param.partition("{layer}.")[2]))
    with refused(PlanError, f"3 blocks as in {family}", "role=['q', 'k', 'v']"):
        plan_of(param, pattern, "role in out", role=["q", "k"]).resolve(model)


@pytest.mark.parametrize(
    ("name", "param", "keys", "fits"),
    [
        ("hf:bloom", "h.{layer}.self_attention.query_key_value.weight", 4, 12),
        ("hf:gpt_neox", "layers.{layer}.attention.query_key_value.weight", 4, 12),
        ("hf:falcon", "h.{layer}.self_attention.query_key_value.weight", 1, 6),
        ("hf:phi3", "layers.{layer}.self_attn.qkv_proj.weight", 1, 4),
    ],
)
def test_thirds_of_a_weight_whose_blocks_follow_the_heads_are_refused(
    name: str, param: str, keys: int, fits: int
) -> None:
    model = member(name)
    fix = "axis_sizes={'head': 4}" if keys > 1 else "role=['q0', "
    with untouched(model), refused(PlanError, f"{fits} blocks as in {name[3:].replace('_', '-')}", "'k' rows", fix):
        plan_of(param, "(role out) in", role=["a", "b"]).resolve(model)
    if keys > 1:
        with refused(PlanError, "q, k and v alternate by head", fix):
            plan_of(param, "(role out) in", role=["q", "k", "v"]).resolve(model)
    assert plan_of(param, "(role out) in", role=list(range(fits))).resolve(model).tensors


def test_torch_s_attention_has_three_blocks_in_any_model() -> None:
    model = nn.ModuleList(nn.MultiheadAttention(4, 2) for _ in range(2))
    with refused(PlanError, "torch.nn.MultiheadAttention", "'k' rows 4..7"):
        plan_of("{layer}.in_proj_weight", "(role out) in", role=["q", "kv"]).resolve(model)


@pytest.mark.parametrize(
    ("pattern", "labels"),
    [
        ("(role out) in", ["q", None, "v"]),
        ("(role out) in", ["qkv"]),
        ("(role out) in", ["q0", "q1", "k0", "k1", "v0", "v1"]),
        ("(part role out) in", ["head0", "head1", "head2", "head3"]),
        ("(role out) in", list(range(96))),
    ],
)
def test_labels_within_the_blocks_or_across_them_by_an_axis_are_allowed(pattern: str, labels: list[Any]) -> None:
    modes = "(layer role) in part out" if "part" in pattern else "(layer role) in out"
    sizes = {"part": 3} if "part" in modes else None
    group = Group("g", modes, (Rule(QKV, pattern, role=labels),), axis_sizes=sizes)
    assert TensorizationPlan((group,)).resolve(nano()).tensors


@pytest.mark.parametrize(
    "case",
    [
        ("a matrix of an MLP", "blocks.{layer}.mlp.fc1.weight", "(role out) in"),
        ("its second matrix", "blocks.{layer}.mlp.fc2.weight", "out (role in)"),
        ("a plain matrix", "blocks.{layer}.attn.proj.weight", "(role out) in"),
    ],
    ids=lambda case: case[0],
)
def test_matrices_without_blocks_of_their_own_take_any_number_of_labels(case: tuple[str, str, str]) -> None:
    _, param, pattern = case
    assert plan_of(param, pattern, role=["a", "b"]).resolve(nano()).tensors


def test_the_names_of_a_family_alone_do_not_make_a_fused_weight() -> None:
    model = nn.Module()
    model.blocks = nn.ModuleList(nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(4, 12)})}) for _ in range(2))
    assert plan_of(QKV, "(role out) in", role=["a", "b"]).resolve(model).tensors
    grouped: Any = timm.create_model("vit_tiny_patch16_224", depth=2)
    for block in grouped.blocks:  # grouped queries in one matrix: no family divides it
        block.attn.qkv = nn.Linear(192, 320)
    assert plan_of(QKV, "(role out) in", role=["a", "b"]).resolve(grouped).tensors


class Unread:
    """Names that must not be read."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("the names are read")


def test_the_model_s_names_are_read_only_where_labels_do_not_fit() -> None:
    model = nano()

    def check(*labels: str | None) -> None:
        rule, sizes = Rule(QKV, "(role out) in", role=labels), {"role": len(labels), "out": 8, "in": 8}
        check_labels(rule, "blocks.0.attn.qkv.weight", (24, 8), sizes, model, Unread())

    for labels in (("q", "k", "v"), ("q", None, "v"), ("qkv",)):
        check(*labels)
    with pytest.raises(AssertionError, match="are read"):
        check("q", "k")

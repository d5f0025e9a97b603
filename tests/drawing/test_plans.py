"""Pictures of plans: every slice once, in the colour of its rule."""

from __future__ import annotations

from xml.etree import ElementTree

import timm
import torch
from hypothesis import given, settings

from tensorfact import Group, Rule, TensorizationPlan, plan_by_shape, plan_for
from tensorfact.drawing.plans import plan_diagram
from tensorfact.lab import nano
from tensorfact.plan import ResolvedPlan
from tests import strategies
from tests.drawing.reading import check, elements, nodes, parse, texts


def cells(picture: str) -> list[ElementTree.Element]:
    return [each for each in elements(parse(picture), "rect") if each.get("class") == "tf-cell"]


def test_the_plan_of_nano() -> None:
    model = nano(pretrained=False)
    picture = plan_diagram(plan_for(model).resolve(model))
    check(picture)
    written, drawn = texts(picture), cells(picture)
    assert len(drawn) == 6 * 12 + 4  # slices, and the key
    assert len({each.get("fill") for each in drawn}) == 4
    for text in ("encoder", "(layer role) 72", "in 96", "out 96", "layer", "role", "down3"):
        assert written.count(text) == 1
    assert "blocks.{layer}.mlp.fc2.weight" in written
    assert "out (role in)" in written


def test_the_plan_of_a_swin_has_a_tensor_a_stage_and_one_key() -> None:
    with torch.device("meta"):
        model = timm.create_model("swin_tiny_patch4_window7_224", depths=(2, 2, 20, 2))
    picture = plan_diagram(plan_for(model).resolve(model))
    root, written = check(picture), texts(picture)
    assert len(nodes(root)) == 4
    assert [f"stages[{k}]" for k in range(4)] == [text for text in written if text.startswith("stages")]
    assert written.count("\N{VERTICAL ELLIPSIS}") == 1
    assert written.count("layers.{stage}.blocks.{layer}.attn.qkv.weight") == 1
    assert len(cells(picture)) == (2 + 2 + 15 + 2) * 12 + 4


def test_plans_without_with_one_and_with_many_stack_axes() -> None:
    model = nano(pretrained=False)
    fused = Rule("blocks.{layer}.attn.qkv.weight", "(role head out) in", role=["q", None, "v"], head=list(range(3)))
    digits = {"role": ["q", "k", "v"], "head": list(range(12))}
    groups = {
        "none": Group("none", "out in", (Rule("head.weight", "out in"),)),
        "one": Group("one", "(layer out) in", (Rule("blocks.{layer}.mlp.fc1.weight", "out in"),)),
        "many": Group("many", "layer role head in out", (fused,)),
        "wide": Group(
            "wide",
            "layer role head in out",
            (Rule(fused.param, fused.pattern, **digits),),  # type: ignore[arg-type]
        ),
    }
    expected = {"none": 1, "one": 6, "many": 6 * 2 * 3, "wide": 6 * 23}
    for name, group in groups.items():
        picture = plan_diagram(TensorizationPlan((group,)).resolve(model))
        check(picture)
        assert len(cells(picture)) == expected[name] + 1, name


def test_a_slice_that_rules_share_is_split_between_their_colours() -> None:
    model = nano(pretrained=False)
    rules = (
        Rule("blocks.{layer}.attn.qkv.weight", "(role out) in", role=["q", None, "v"], kind="qkv"),
        Rule("blocks.{layer}.attn.proj.weight", "out in", role="v", kind="o"),
    )
    plan = TensorizationPlan((Group("tied", "role in out", rules, tied="layer kind"),))
    picture = plan_diagram(plan.resolve(model))
    check(picture)
    assert len(cells(picture)) == 1 + 2 + 2


def test_slices_that_no_parameter_fills_are_left_out() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet18")
    resolved = plan_by_shape(model).resolve(model)
    picture = plan_diagram(resolved)
    check(picture)
    rules = {view.rule for tensor in resolved.tensors for view in tensor.views}
    assert len(cells(picture)) == sum(len(tensor.views) for tensor in resolved.tensors) + len(rules)


@settings(max_examples=25)
@given(strategies.cases())
def test_any_plan(case: strategies.Case) -> None:
    resolved = case.resolve()
    picture = plan_diagram(resolved)
    assert picture == plan_diagram(resolved)
    assert len(nodes(check(picture))) == len(resolved.tensors)


def test_an_empty_plan_is_an_empty_picture() -> None:
    check(plan_diagram(ResolvedPlan(())))

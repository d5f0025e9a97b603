"""Plans made from plans: the same numbers in other places."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tensorfact import Group, Rule, TensorizationPlan, plan_for
from tensorfact.errors import PlanError, SizeError
from tensorfact.lab import nano
from tests.helpers import refused

NANO = nano()
PLAN = plan_for(NANO)


def dense(plan: TensorizationPlan, model: nn.Module = NANO) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return {tensor.name: tensor.gather(parameters) for tensor in plan.resolve(model).tensors}


def test_a_split_axis_is_modes_of_its_own() -> None:
    (whole,), (split,) = dense(PLAN).values(), dense(PLAN.split("in", {"a": 4, "b": None, "c": 3})).values()
    assert split.shape == (72, 4, 8, 3, 96)
    assert torch.equal(split.reshape(whole.shape), whole)


def test_a_split_axis_stays_where_it_is_merged() -> None:
    plan = plan_for(NANO, "attention").arranged("layer (role in) out").split("in", {"a": None, "b": 6})
    assert plan.groups[0].modes == "layer (role a b) out"
    assert plan.resolve(NANO).tensors[0].shape == (6, 4 * 96, 96)


def test_a_split_keeps_sizes_labels_and_partitions() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(4, 6), nn.Linear(4, 6))
    group = Group("g", "n in out", (Rule("{n}.weight", "out in"),), partition="in out")
    plan = TensorizationPlan((group,)).split("in", {"a": 2, "b": None})
    assert sorted(tensor.shape for tensor in plan.resolve(model).tensors) == [(2, 2, 2, 6), (2, 2, 4, 4)]
    again = plan.split("b", {"c": 2, "d": None})
    assert again.groups[0].axis_sizes == {"a": 2, "c": 2}
    assert TensorizationPlan.from_json(again.to_json()) == again


def test_only_keeps_the_chosen_and_leaves_the_rest_frozen() -> None:
    (whole,), (part,) = dense(PLAN).values(), dense(PLAN.only(role=["v", "o", "down2"])).values()
    layers = whole.reshape(6, 12, 96, 96)
    assert torch.equal(part.reshape(6, 3, 96, 96), layers[:, [2, 3, 10]])
    assert PLAN.only(role="o").resolve(NANO).parameters == tuple(f"blocks.{k}.attn.proj.weight" for k in range(6))


def test_only_takes_fixed_coordinates_and_numbers() -> None:
    rules = (Rule("blocks.0.attn.proj.weight", "out in", at=0), Rule("blocks.1.attn.proj.weight", "out in", at=1))
    plan = TensorizationPlan((Group("g", "at in out", rules),))
    assert plan.only(at=0).resolve(NANO).parameters == ("blocks.0.attn.proj.weight",)


def test_only_drops_the_rules_of_a_group_that_do_not_have_the_label() -> None:
    rules = (Rule("blocks.{at}.attn.proj.weight", "out in"), Rule("blocks.0.mlp.fc1.weight", "out in", at="mlp"))
    plan = TensorizationPlan((Group("g", "at in out", rules),)).only(at="mlp")
    assert [rule.param for rule in plan.groups[0].rules] == ["blocks.0.mlp.fc1.weight"]


def test_swapped_parameters_lie_transposed() -> None:
    downs = [f"down{k}" for k in range(4)]
    plan = PLAN.only(role=["o", *downs])
    (whole,), (swapped,) = dense(plan).values(), dense(plan.swapped("in", "out", role=downs)).values()
    before, after = whole.reshape(6, 5, 96, 96), swapped.reshape(6, 5, 96, 96)
    assert torch.equal(after[:, 0], before[:, 0])
    assert torch.equal(after[:, 1:], before[:, 1:].mT)


def test_a_swap_takes_what_all_coordinates_choose_and_without_any_everything() -> None:
    rules = [Rule(f"blocks.{k}.attn.proj.weight", "out in", role="o", part=p) for k, p in enumerate("xy")]
    plan = TensorizationPlan((Group("g", "(role part) in out", tuple(rules)),))

    def patterns(plan: TensorizationPlan) -> list[str]:
        return [rule.pattern for rule in plan.groups[0].rules]

    assert patterns(plan.swapped("in", "out", role="o", part="x")) == ["in out", "out in"]
    assert patterns(plan.swapped("in", "out")) == ["in out", "in out"]


def test_any_two_axes_along_the_parameters_are_swapped() -> None:
    plan = TensorizationPlan((Group("g", "at to from", (Rule("blocks.{at}.attn.proj.weight", "to from"),)),))
    assert [rule.pattern for rule in plan.swapped("from", "to").groups[0].rules] == ["from to"]
    with refused(PlanError, "'in'", "plan.swapped('from', 'to')"):
        plan.swapped("in", "to")


def test_a_size_that_is_known_need_not_be_told() -> None:
    plan = PLAN.split("in", {"head": 12, "dim": None}).split("head", {"a": 4, "b": None})
    assert plan.resolve(NANO).tensors[0].shape == (72, 4, 3, 8, 96)


def test_plans_join_under_the_names_they_are_given() -> None:
    parts = {"a": PLAN.only(role=["q", "k"]), "": PLAN.only(role="o")}
    assert list(dense(TensorizationPlan.joined(parts))) == ["a", "encoder"]
    two = plan_for(NANO, mlp="whole")
    assert [group.name for group in TensorizationPlan.joined({"x": two}).groups] == ["x_encoder", "x_encoder_mlp"]


@given(st.permutations(["layer", "role", "in", "out"]))
def test_arranged_only_moves_modes(axes: list[str]) -> None:
    plan = plan_for(NANO, "attention")
    (whole,), (moved,) = (
        dense(plan.arranged("layer role in out")).values(),
        dense(plan.arranged(" ".join(axes))).values(),
    )
    order = [["layer", "role", "in", "out"].index(axis) for axis in axes]
    assert torch.equal(moved, whole.permute(order))


@pytest.mark.parametrize(
    "edit",
    [
        lambda plan: plan.only(role=["q", "v"]),
        lambda plan: plan.swapped("in", "out", role="o"),
        lambda plan: plan.arranged("in layer role out"),
        lambda plan: TensorizationPlan.joined({"a": plan}),
        lambda plan: TensorizationPlan.from_json(plan.to_json()),
    ],
)
def test_an_edit_keeps_the_sides(edit: Callable[[TensorizationPlan], TensorizationPlan]) -> None:
    group = dataclasses.replace(PLAN.groups[0], sides={"in": "out", "out": "in"})
    edited = edit(TensorizationPlan((group,)))
    assert edited.groups[0].sides == {"in": "out", "out": "in"}
    (tensor,) = edited.resolve(NANO).tensors
    assert {mode.name: mode.side for mode in tensor.modes if mode.name in ("in", "out")} == {"in": "out", "out": "in"}


def test_the_parts_of_a_split_axis_have_its_side() -> None:
    group = dataclasses.replace(PLAN.groups[0], sides={"in": "stack"})
    plan = TensorizationPlan((group,)).split("in", {"a": 4, "b": None}).split("out", {"c": 3, "d": None})
    assert plan.groups[0].sides == {"a": "stack", "b": "stack"}
    assert [mode.side for mode in plan.resolve(NANO).tensors[0].modes] == ["stack", "stack", "stack", "out", "out"]


MISTAKES: Mapping[str, tuple[type[PlanError], Callable[[], Any], str]] = {
    "no such axis": (PlanError, lambda: PLAN.split("inn", {"a": 2, "b": None}), "did you mean 'in'"),
    "a labelled axis": (PlanError, lambda: PLAN.split("role", {"a": 2, "b": None}), "role"),
    "two unknown sizes": (PlanError, lambda: PLAN.split("in", {"a": None, "b": None}), "None"),
    "no axes": (PlanError, lambda: PLAN.split("in", {}), "{}"),
    "an axis there is": (PlanError, lambda: PLAN.split("in", {"out": 2, "b": None}), "out"),
    "a size that does not divide": (SizeError, lambda: PLAN.split("in", {"a": 5, "b": None}).resolve(NANO), "5"),
    "sizes of another product": (SizeError, lambda: PLAN.split("in", {"a": 5, "b": 2}).resolve(NANO), "96"),
    "no such role": (PlanError, lambda: PLAN.only(role=["q", "qq"]), "did you mean 'q'"),
    "no such labelled axis": (PlanError, lambda: PLAN.only(rule="q"), "rule"),
    "nothing chosen": (PlanError, lambda: PLAN.only(role=[]), "role"),
    "other modes": (PlanError, lambda: PLAN.arranged("layer in out"), "role"),
    "half a rule": (PlanError, lambda: PLAN.swapped("in", "out", role="q"), "only some coordinates"),
    "an axis that is none": (PlanError, lambda: PLAN.swapped("in", "outt", role="o"), "outt"),
    "no size": (PlanError, lambda: PLAN.split("in", {"a": 0, "b": None}), "split: 'in' into 'a'"),
    "no name": (PlanError, lambda: PLAN.split("in", {1: 3, 2: None}), "axes and their sizes"),  # type: ignore[dict-item]
    "a name and a number": (PlanError, lambda: PLAN.split("in", {"a": 2, 3: None}), "axes and their sizes"),  # type: ignore[dict-item]
    "no coordinate": (PlanError, lambda: PLAN.only(role=3.5), "3.5"),  # type: ignore[arg-type]
    "an unknown axis": (PlanError, lambda: PLAN.swapped("foo", "bar"), "foo"),
    "an axis that is no name": (PlanError, lambda: PLAN.split(None, {"a": 2}), "split: axis"),  # type: ignore[arg-type]
    "sizes that are none": (PlanError, lambda: PLAN.split("in", 5), "plan.split('in', {'head': 12"),  # type: ignore[arg-type]
    "nothing to keep": (PlanError, lambda: PLAN.only(), "only: no label"),
    "no label": (PlanError, lambda: PLAN.only(role=None), "only: role=None"),  # type: ignore[arg-type]
    "a label in two lists": (PlanError, lambda: PLAN.only(role=[["q"]]), "only: role"),  # type: ignore[list-item]
    "one axis twice": (PlanError, lambda: PLAN.swapped("in", "in"), "two different axes"),
    "no axes to swap": (PlanError, lambda: PLAN.swapped(None, 5), "plan.swapped("),  # type: ignore[arg-type]
    "no label to swap": (PlanError, lambda: PLAN.swapped("in", "out", role=[]), "swapped: role"),
    "no plans": (PlanError, lambda: TensorizationPlan.joined({"a": "x"}), "plans by name"),  # type: ignore[dict-item]
    "a plan and something else": (PlanError, lambda: TensorizationPlan.joined({"a": PLAN, "b": "x"}), "plans by name"),  # type: ignore[dict-item]
    "one name twice": (PlanError, lambda: TensorizationPlan.joined({"encoder": PLAN, "": PLAN}), "encoder"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake: str) -> None:
    kind, call, word = MISTAKES[mistake]
    with refused(kind, word):
        call()

"""Plans as data: what makes one, and JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorfact import Group, Rule, TensorizationPlan
from tensorfact.errors import PlanError
from tests.helpers import layers, layers_plan, refused
from tests.strategies import Case, cases

RULE = {"param": "{layer}.weight", "pattern": "out in"}
GROUP = {"name": "g", "modes": "layer in out", "rules": [RULE]}


@pytest.mark.parametrize("groups", [(), [], None, "group", (None,), 3])
def test_a_plan_is_a_list_of_groups(groups: Any) -> None:
    with refused(PlanError, repr(groups), fix=False):
        TensorizationPlan(groups)


def test_a_plan_of_one_group_without_its_list_is_refused() -> None:
    with refused(PlanError, "list", fix=False):
        TensorizationPlan(layers_plan().groups[0])  # type: ignore[arg-type]


def test_group_names_are_unique() -> None:
    group = layers_plan().groups[0]
    with refused(PlanError, repr(group.name)):
        TensorizationPlan((group, Group(group.name, "in out", (Rule("w", "out in"),))))


@given(cases())
def test_json_is_compact_and_stays_the_same_when_written_again(case: Case) -> None:
    text = case.plan.to_json()
    assert TensorizationPlan.from_json(text).to_json() == text
    assert "null" not in text.replace("null,", "").replace("null]", ""), "only frozen slots are null"


def test_a_plan_may_be_written_by_hand() -> None:
    assert TensorizationPlan.from_json(json.dumps({"groups": [GROUP]})).resolve(layers())["g"].shape == (2, 6, 6)


def changed(level: str, **values: Any) -> str:
    """Return a plan as JSON with keys of one level replaced; a value of ... removes its key."""
    rule: dict[str, Any] = dict(RULE)
    group: dict[str, Any] = {**GROUP, "rules": [rule]}
    plan: dict[str, Any] = {"groups": [group]}
    target = {"rule": rule, "group": group, "plan": plan}[level]
    target |= values
    for key in [key for key, value in values.items() if value is ...]:
        del target[key]
    return json.dumps(plan)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["not valid JSON"]),
        ("{", ["not valid JSON"]),
        ("[" * 100_000, ["not valid JSON"]),
        (None, ["not valid JSON"]),
        ("[]", ["plan", "[]"]),
        ("3", ["plan", "3"]),
        ('{"groups": [3]}', ["group", "3"]),
        (changed("plan", groups=...), ["'groups'"]),
        (changed("plan", groups=[]), ["Group"]),
        (changed("plan", groups={}), ["'groups'", "{}"]),
        (changed("plan", version=1), ["unknown key", "'version'"]),
        (changed("group", rules=[3]), ["rule", "3"]),
        (changed("group", modes=...), ["'modes'"]),
        (changed("group", modes=3), ["'modes'", "3"]),
        (changed("group", name=None), ["'name'", "None"]),
        (changed("group", partition=3), ["'partition'", "3"]),
        (changed("group", axis_sizes=[1]), ["'axis_sizes'", "[1]"]),
        (changed("group", axis_sizes={"in": 1.5}), ["'in'", "1.5"]),
        (changed("group", sides=["in"]), ["'sides'", "['in']"]),
        (changed("group", sides={"inn": "in"}), ["'inn'", "did you mean 'in'?"]),
        (changed("group", sides={"in": "row"}), ["sides['in']", "'stack', 'in' or 'out'", "'row'"]),
        (changed("group", sides={"layer": "in"}), ["sides", "'layer'"]),
        (changed("group", sides={"in": None}), ["sides['in']", "None"]),
        (changed("group", partiton="stage"), ["'partiton'", "did you mean 'partition'?"]),
        (changed("rule", param=...), ["'param'"]),
        (changed("rule", pattern=["out", "in"]), ["'pattern'", "['out', 'in']"]),
        (changed("rule", role="q"), ["unknown key", "'role'"]),
        (changed("rule", coordinates=["q"]), ["'coordinates'", "['q']"]),
        (changed("rule", coordinates={"param": "q"}), ["'param'"]),
        (changed("rule", coordinates={"self": "q"}), ["'self'"]),
        (changed("rule", coordinates={"role": "q"}), ["'role'"]),
        (changed("rule", coordinates={"role": 1.5}), ["1.5"]),
        (changed("rule", coordinates={"role": {"a": 1}}), ["role"]),
        (changed("rule", coordinates={"in": ["a", ["b"]]}), ["in"]),
    ],
)
def test_json_that_is_no_plan_is_refused(text: Any, words: list[str]) -> None:
    with refused(PlanError, *words, fix=False):
        TensorizationPlan.from_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(["plan", "group", "rule"]),
    st.sampled_from(["groups", "name", "modes", "rules", "partition", "axis_sizes", "param", "pattern", "coordinates"]),
    JSON,
)
def test_any_json_is_a_plan_or_a_plan_error(level: str, key: str, value: Any) -> None:
    try:
        plan = TensorizationPlan.from_json(changed(level, **{key: value}))
    except PlanError:
        return
    assert TensorizationPlan.from_json(plan.to_json()) == plan


LONG = "a" * 1_000_000
MANY = 20_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (changed("group", modes=" ".join(f"a{k}" for k in range(50_000))), "at most 10,000 characters"),
        (changed("rule", pattern=" ".join(f"a{k}" for k in range(1500))), "at most 64 axes"),
        (changed("rule", coordinates={f"a{k}": k for k in range(50_000)}), "at most 64 axes"),
        (changed("rule", pattern=LONG), "at most 10,000 characters"),
        (changed("rule", param=LONG), "at most 10,000 characters"),
        (changed("group", modes="(" * 9_999), "cannot read the axis string"),
        (changed("group", tied="a " * MANY), "at most 10,000 characters"),
        (changed("group", sides={"in": LONG}), "sides['in']"),
        (changed("group", axis_sizes={LONG: 2}), "axis_sizes"),
        (changed("group", **{LONG: 2}), "unknown key"),
        (json.dumps({"groups": [GROUP] * MANY}), "two groups are named 'g'"),
        ('{"groups":' + "[" * 10_000, "not valid JSON"),
    ],
    ids=lambda value: value[:40],
)
def test_text_beyond_any_plan_is_refused_in_a_short_message(text: str, words: str) -> None:
    with pytest.raises(PlanError, match=re.escape(words)) as caught:
        TensorizationPlan.from_json(text)
    assert len(str(caught.value)) < 1000


def test_large_plans_are_read_and_resolved() -> None:
    """The time limit is for a hang, as of a quadratic search."""
    code = """
from torch import nn
from tensorfact import Group, Rule, TensorizationPlan
model = nn.ModuleDict({f"m{k}": nn.Linear(1, 1, bias=False, device="meta") for k in range(800)})
rules = tuple(Rule(f"m{k}.weight", "out in", layer=k) for k in range(5000))
plan = TensorizationPlan.from_json(TensorizationPlan((Group("g", "layer in out", rules),)).to_json())
some = TensorizationPlan((Group("g", "layer in out", plan.groups[0].rules[:800]),))
assert some.resolve(model)["g"].shape == (800, 1, 1)
groups = tuple(Group(f"g{k}", "in out", (Rule(f"m{k}.weight", "out in"),)) for k in range(800))
assert len(TensorizationPlan(groups).resolve(model).tensors) == 800
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

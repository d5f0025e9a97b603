"""Rules and groups: what they mean, and what contradicts itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tensorfact import Group, Rule
from tensorfact.errors import PlanError
from tensorfact.plan.rules import mode_names, rule_to_dict
from tests.helpers import refused

QKV = Rule("blocks.{layer}.qkv.weight", "(role out) in", role=["q", None, "v"])
PROJ = Rule("blocks.{layer}.proj.weight", "out in", role="o")


# ---------------------------------------------------------------------------------------------------------------- rules


def test_a_rule_tells_its_axes_apart() -> None:
    assert QKV.dims == (("role", "out"), ("in",))
    assert QKV.captured == ("layer",)
    assert QKV.listed == {"role": ("q", None, "v")}
    assert QKV.free == ("out", "in")
    assert PROJ.fixed == {"role": "o"}
    assert QKV.axes == PROJ.axes == {"layer", "role", "in", "out"}


@pytest.mark.parametrize(
    ("param", "name", "captured"),
    [
        ("blocks.{layer}.w", "blocks.3.w", {"layer": 3}),
        ("blocks.{layer}.w", "blocks.x.w", {"layer": "x"}),
        ("{a}.{b}", "0.last", {"a": 0, "b": "last"}),
        ("stage{s}.w", "stage2.w", {"s": 2}),
        ("w", "w", {}),
        ("blocks.{layer}.w", "blocks.3.4.w", None),
        ("blocks.{layer}.w", "module.blocks.3.w", None),
        ("blocks.{layer}.w", "blocks.3.weight", None),
        ("blocks.{layer}.w", "blocks..w", None),
        ("blocks.{layer}.w", "blocks.3xw", None),
        ("a+b.{x}", "aab.1", None),
    ],
)
def test_a_template_captures_whole_words_between_dots(param: str, name: str, captured: Any) -> None:
    pattern = "out in"
    assert Rule(param, pattern).match(name) == captured


def test_rules_and_groups_are_values() -> None:
    twin = Rule("blocks.{layer}.qkv.weight", "(role out) in", role=("q", None, "v"))
    assert twin == QKV
    assert hash(twin) == hash(QKV)
    assert Rule("blocks.{layer}.qkv.weight", "(role out) in", role=["q", None, "k"]) != QKV
    groups = [Group("g", "(layer role) in out", rules) for rules in ([QKV, PROJ], (twin, PROJ))]  # type: ignore[arg-type]
    assert groups[0] == groups[1]
    assert hash(groups[0]) == hash(groups[1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        QKV.param = "other"  # type: ignore[misc]


def test_a_rule_prints_as_it_is_written() -> None:
    assert repr(QKV) == "Rule('blocks.{layer}.qkv.weight', '(role out) in', role=['q', None, 'v'])"
    assert eval(repr(QKV)) == QKV


@pytest.mark.parametrize(
    ("arguments", "coordinates", "word"),
    [
        (("", "out in"), {}, "template"),
        ((None, "out in"), {}, "template"),
        (("w", None), {}, "None"),
        (("w", "out ("), {}, "'out ('"),
        (("blocks.{layer.w", "out in"), {}, "blocks.{layer.w"),
        (("blocks.{}.w", "out in"), {}, "blocks.{}.w"),
        (("blocks.{2x}.w", "out in"), {}, "blocks.{2x}.w"),
        (("blocks.{a b}.w", "out in"), {}, "blocks.{a b}.w"),
        (("blocks.{l}.{l}.w", "out in"), {}, "'l'"),
        (("blocks.{layer}.w", "out in"), {"layer": 3}, "'layer'"),
        (("blocks.{in}.w", "out in"), {}, "'in'"),
        (("w", "out in"), {"out": "q"}, "'out'"),
        (("w", "out in"), {"role": ["q", "k"]}, "role=['q', 'k']"),
        (("w", "(role out) in"), {"role": [None, None]}, "role"),
        (("w", "(role out) in"), {"role": []}, "role"),
        (("w", "(role out) in"), {"role": ["q", "q"]}, "twice"),
        (("w", "(role out) in"), {"role": ["q", 1.5]}, "1.5"),
        (("w", "(role out) in"), {"role": ["q", True]}, "True"),
        (("w", "(role out) in"), {"role": [["q"]]}, "role"),
        (("w", "out in"), {"role": None}, "role"),
        (("w", "out in"), {"role": {}}, "role"),
    ],
)
def test_a_rule_that_contradicts_itself_is_refused(arguments: Any, coordinates: Any, word: str) -> None:
    with refused(PlanError, word, fix=False):
        Rule(*arguments, **coordinates)


# --------------------------------------------------------------------------------------------------------------- groups


def test_a_group_tells_stack_axes_from_free_ones() -> None:
    group = Group("g", "(layer role) in out", (QKV, PROJ))
    assert group.stack == ("layer", "role")
    assert mode_names(group) == ("(layer role)", "in", "out")


@pytest.mark.parametrize("name", ["", "a.b", "a[0]", None, 3])
def test_a_group_has_a_plain_name(name: Any) -> None:
    with refused(PlanError, repr(name), fix=False):
        Group(name, "(layer role) in out", (QKV,))


@pytest.mark.parametrize("rules", [(), [], ("rule",), (QKV, None)])
def test_a_group_has_rules(rules: Any) -> None:
    with refused(PlanError, "'g'", "Rule", fix=False):
        Group("g", "(layer role) in out", rules)


@pytest.mark.parametrize("rules", [QKV, None, 3])
def test_a_group_s_rules_are_a_list(rules: Any) -> None:
    with refused(PlanError, "'g'", fix=False):
        Group("g", "(layer role) in out", rules)


@pytest.mark.parametrize(
    ("modes", "rules", "options", "words"),
    [
        ("(layer role) in", (QKV,), {}, ["not in the modes ['out']"]),
        ("(layer role head) in out", (QKV,), {}, ["missing ['head']"]),
        ("(layer role) in out", (QKV, Rule("w", "out in", role="o")), {}, ["rule 'w'", "missing ['layer']"]),
        ("(layer role) in out", (QKV,), {"partition": "stage"}, ["'stage'", "missing ['stage']"]),
        ("(layer role) in out", (QKV,), {"partition": "layer"}, ["'layer'"]),
        ("layer out", (QKV,), {"partition": "role"}, ["'role'"]),
        ("layer role out", (QKV,), {"partition": "in"}, ["'in'"]),
        ("(layer role) in out ()", (QKV,), {}, ["without an axis"]),
        ("(layer role) in out 1", (QKV,), {}, ["without an axis"]),
        ("(layer role) in in", (QKV,), {}, ["twice"]),
        (
            "(layer role) in out",
            (QKV, Rule("blocks.{layer}.w", "(role out) in")),
            {},
            ["'role'", "blocks.{layer}.w"],
        ),
    ],
)
def test_a_group_whose_axes_disagree_is_refused(modes: str, rules: Any, options: Any, words: list[str]) -> None:
    with refused(PlanError, "'g'", *words):
        Group("g", modes, rules, **options)


@pytest.mark.parametrize(
    "sizes", [{"heads": 2}, {"out": 0}, {"out": -1}, {"out": 1.5}, {"out": True}, {"out": "2"}, {"out": None}]
)
def test_axis_sizes_are_counts_of_axes_that_exist(sizes: Any) -> None:
    with refused(PlanError, repr(next(iter(sizes))), fix=False):
        Group("g", "(layer role) in out", (QKV,), axis_sizes=sizes)


@pytest.mark.parametrize("param", ["{a}{b}.weight", "x.{a}_{b}_{c}_{d}.weight"])
def test_captures_that_would_take_for_ever_to_match_are_refused(param: str) -> None:
    with refused(PlanError, param.split(".")[0], fix=False):
        Rule(param, "out in")


@pytest.mark.parametrize("partition", ["(layer role)", "layer (in out)", "()"])
def test_names_of_axes_are_separated_by_spaces(partition: str) -> None:
    with refused(PlanError, "partition", "axis names separated by spaces", repr(partition)):
        Group("g", "in out", (QKV,), partition=partition)


def test_a_long_number_is_a_name() -> None:
    assert Rule("{layer}.weight", "out in").match(f"{'9' * 9}.weight") == {"layer": 999_999_999}
    assert Rule("{layer}.weight", "out in").match(f"{'9' * 10}.weight") == {"layer": "9" * 10}
    assert Rule("{layer}.weight", "out in").match(f"{'9' * 5000}.weight") == {"layer": "9" * 5000}


@pytest.mark.parametrize("name", ["values", "keys", "items", "train", "training", "type", "forward"])
def test_a_group_is_not_named_like_an_attribute_of_a_module(name: str) -> None:
    """torch walks a path such as `tensorfact.factors.NAME` by attributes."""
    with refused(PlanError, repr(name), "attribute"):
        Group(name, "layer in out", (Rule("{layer}.weight", "out in"),))


def test_an_axis_is_not_both_a_partition_and_tied() -> None:
    with refused(PlanError, "'layer' is in partition and in tied"):
        Group("g", "in out", (Rule("{layer}.weight", "out in"),), partition="layer", tied="layer")


@pytest.mark.parametrize("sizes", ["x", 3, ["in"]])
def test_axis_sizes_are_a_dict(sizes: Any) -> None:
    with refused(PlanError, "axis_sizes", "axis_sizes={'in': 12}"):
        Group("g", "in out", (Rule("w", "out in"),), axis_sizes=sizes)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule("w", "out in"), {"param": "w", "pattern": "out in"}),
        (Rule("w", "out in", role="o"), {"param": "w", "pattern": "out in", "coordinates": {"role": "o"}}),
        (
            Rule("w", "(role out) in", role=("q", None)),
            {"param": "w", "pattern": "(role out) in", "coordinates": {"role": ["q", None]}},
        ),
    ],
)
def test_a_rule_is_written_with_the_coordinates_it_has(rule: Rule, expected: dict[str, Any]) -> None:
    assert rule_to_dict(rule) == expected

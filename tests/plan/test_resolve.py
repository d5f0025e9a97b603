"""A plan meets a model: which parameter fills which slice, and every way in which it may not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from torch import nn

from tensorfact import Group, Rule, TensorizationPlan, TensorTrain, adapt
from tensorfact.errors import AdaptError, ClaimError, NoMatchError, PlanError, SizeError, TensorfactError
from tests.helpers import Tiny, layers, layers_plan, refused, snapshot, untouched
from tests.strategies import Case, cases

QKV = Rule("blocks.{layer}.qkv.weight", "(role out) in", role=["q", "k", "v"])
PROJ = Rule("blocks.{layer}.proj.weight", "out in", role="o")


def plan(modes: str, *rules: Rule, **options: Any) -> TensorizationPlan:
    return TensorizationPlan((Group("g", modes, rules, **options),))


# -------------------------------------------------------------------------------------------------------- what it finds


@given(cases())
def test_resolving_only_reads(case: Case) -> None:
    model = case.build()
    before = snapshot(model)
    case.plan.resolve(model)
    assert snapshot(model) == before


@given(cases())
def test_every_place_of_a_tensor_is_filled_once(case: Case) -> None:
    for tensor in case.resolve().tensors:
        filled = torch.zeros(tensor.shape)
        for name, part in tensor.scatter(torch.ones(tensor.shape)).items():
            others = {view.parameter: torch.zeros(view.shape) for view in tensor.views}
            filled += tensor.gather(others | {name: part})
        assert torch.equal(filled, torch.ones(tensor.shape))


def test_merged_modes_hold_the_slices_in_the_order_of_layers_and_rules() -> None:
    model = Tiny(width=4, depth=2)
    tensor = plan("(layer role) in out", QKV, PROJ).resolve(model)["g"]
    assert [(mode.name, mode.size, mode.side) for mode in tensor.modes] == [
        ("(layer role)", 8, "stack"),
        ("in", 4, "in"),
        ("out", 4, "out"),
    ]
    assert tensor.coordinates == {"layer": (0, 1), "role": ("q", "k", "v", "o")}
    dense = tensor.gather(dict(model.named_parameters()))
    block = model.blocks[1]
    assert isinstance(block.qkv, nn.Linear)
    assert isinstance(block.proj, nn.Linear)
    assert torch.equal(dense[4 + 2], block.qkv.weight[8:].T)
    assert torch.equal(dense[4 + 3], block.proj.weight.T)


def test_a_frozen_slot_takes_no_place() -> None:
    rule = Rule("blocks.{layer}.qkv.weight", "(role out) in", role=["q", None, "v"])
    model = Tiny(width=4, depth=2)
    tensor = plan("layer role in out", rule).resolve(model)["g"]
    assert tensor.shape == (2, 2, 4, 4)
    assert tensor.coordinates["role"] == ("q", "v")
    assert not tensor.scatter(torch.ones(tensor.shape))["blocks.0.qkv.weight"][4:8].any()


def test_digits_may_stand_in_any_order() -> None:
    rule = Rule("blocks.{layer}.proj.weight", "(head dim) in")
    model = Tiny(width=6, heads=3, depth=1)
    weight = dict(model.named_parameters())["blocks.0.proj.weight"]
    for modes, expected in [
        ("layer in (head dim)", weight.T[None]),
        ("layer in (dim head)", weight.T.reshape(6, 3, 2).transpose(1, 2).flatten(1)[None]),
        ("head layer dim in", weight.reshape(3, 1, 2, 6)),
    ]:
        tensor = plan(modes, rule, axis_sizes={"head": 3}).resolve(model)["g"]
        assert torch.equal(tensor.gather({"blocks.0.proj.weight": weight}), expected)


def test_numbers_sort_by_value_and_labels_keep_their_order() -> None:
    tensor = layers_plan().resolve(layers(depth=11))["stack"]
    assert tensor.coordinates["layer"] == tuple(range(11))
    named = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("z", "a", "m")})
    assert layers_plan().resolve(named)["stack"].coordinates["layer"] == ("z", "a", "m")


def test_only_the_roles_a_layer_has_take_a_place_in_a_merged_mode() -> None:
    model = nn.ModuleDict({"a_0": nn.Linear(2, 2), "a_1": nn.Linear(2, 2), "b_1": nn.Linear(2, 2)})
    rules = [Rule(f"{role}_{{layer}}.weight", "out in", role=role) for role in ("a", "b")]
    assert plan("(layer role) in out", *rules).resolve(model)["g"].shape == (3, 2, 2)


def test_partition_makes_a_tensor_for_each_value() -> None:
    model = nn.ModuleList([layers(2, 4), layers(3, 6)])
    rule = Rule("{stage}.{layer}.weight", "out in")
    resolved = plan("layer in out", rule, partition="stage").resolve(model)
    assert {tensor.name: tensor.shape for tensor in resolved.tensors} == {"g[0]": (2, 4, 4), "g[1]": (3, 6, 6)}
    assert [tensor.group for tensor in resolved.tensors] == ["g", "g"]
    assert resolved["g[1]"].shape == (3, 6, 6)
    assert len(resolved.parameters) == 5


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("10", "2", "1"), ["g[1]", "g[2]", "g[10]"]),
        (("z", "a", "m"), ["g[z]", "g[a]", "g[m]"]),
        (("2", "a", "1"), ["g[2]", "g[a]", "g[1]"]),
    ],
)
def test_tensors_of_numbers_are_in_their_order_and_those_of_names_in_the_model_s(
    names: tuple[str, ...], expected: list[str]
) -> None:
    model = nn.ModuleDict({name: layers(2, 4) for name in names})
    resolved = plan("layer in out", Rule("{part}.{layer}.weight", "out in"), partition="part").resolve(model)
    assert [tensor.name for tensor in resolved.tensors] == expected


@pytest.mark.parametrize(
    ("sizes", "fix"),
    [
        ({"head": 3}, "choose head from 1, 2, 4, 8, 16"),
        ({"head": 3, "dim": 4}, "choose head from 1, 2, 4."),
        ({"head": 3, "dim": 5}, "axis_sizes={'head': ...}"),
    ],
)
def test_sizes_that_would_fit_are_listed(sizes: dict[str, int], fix: str) -> None:
    axes = " ".join(dict.fromkeys([*sizes, "rest"]))
    wrong = plan(f"layer in {axes}", Rule("{layer}.weight", f"({axes}) in"), axis_sizes=sizes)
    with refused(SizeError, fix):
        wrong.resolve(layers(2, 16))


def test_the_sides_follow_the_dimensions_of_a_parameter() -> None:
    model = nn.ModuleList([nn.Conv2d(4, 6, 3)])
    resolved = plan("layer out (in kh) kw", Rule("{layer}.weight", "out in kh kw")).resolve(model)
    assert [mode.side for mode in resolved["g"].modes] == ["stack", "out", "in", "in"]


def test_an_unknown_tensor_is_refused_with_the_nearest_name() -> None:
    with refused(PlanError, "'stck'", "did you mean 'stack'?", fix=False):
        layers_plan().resolve(layers())["stck"]


def test_the_printed_table_says_what_fills_which_slice() -> None:
    rule = Rule("blocks.{layer}.qkv.weight", "(role out) in", role=["q", None, "v"])
    text = str(plan("(layer role) in out", rule, PROJ).resolve(Tiny(width=4, depth=2)))
    assert "(layer role)=6 in=4 out=4" in text
    assert "2 x 12x4" in text
    assert "role=q,-,v" in text
    assert "role=o" in text


# ------------------------------------------------------------------------------------------------------ what it refuses


class Tied(nn.Module):
    """Two names of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight


REFUSALS: list[Any] = [
    pytest.param(
        layers(), plan("layer in out", Rule("blocks.{layer}.weight", "out in")), NoMatchError,
        ["'blocks.{layer}.weight'", "4 parameters", "0.weight"], id="a rule that matches nothing",
    ),
    pytest.param(
        layers(), plan("layer in out", Rule("{layer}", "out in")), NoMatchError, ["'{layer}'"],
        id="a module's name instead of a parameter's",
    ),
    pytest.param(
        nn.ReLU(), plan("in out", Rule("weight", "out in")), NoMatchError, ["0 parameters"],
        id="a model without parameters",
    ),
    pytest.param(
        layers(), plan("layer in out", Rule("{layer}.weight", "out in"), Rule("{layer}.weight", "in out")), ClaimError,
        ["'0.weight'", "(6, 6)"], id="two rules of one group, one name",
    ),
    pytest.param(
        layers(), plan("layer in out", Rule("{layer}.weight", "out in"), Rule("{layer}.weight", "out in")), ClaimError,
        ["'0.weight'"], id="one rule twice in a group",
    ),
    pytest.param(
        layers(),
        TensorizationPlan((*layers_plan().groups, Group("other", "in out", (Rule("1.weight", "out in"),)))),
        ClaimError, ["'1.weight'", "(6, 6)", "rule '{layer}.weight'"], id="two rules of two groups, one name",
    ),
    pytest.param(
        layers(),
        TensorizationPlan((*layers_plan().groups, Group("other", "layer in out", (Rule("{layer}.weight", "out in"),)))),
        ClaimError, ["'0.weight'"], id="one rule in two groups",
    ),
    pytest.param(
        Tied(), plan("name in out", Rule("a.weight", "out in", name=0), Rule("b.weight", "out in", name=1)),
        ClaimError, ["'b.weight'", "'a.weight'", "tied"],
        id="tied parameters under two names",
    ),
    pytest.param(
        Tiny(depth=1), plan("role in out", Rule("blocks.0.qkv.weight", "(role out) in", role=["a", "b", "c"]),
                            Rule("blocks.0.proj.weight", "out in", role="b")), ClaimError,
        ["role='b'", "'blocks.0.qkv.weight'", "'blocks.0.proj.weight'"], id="two parameters in one place",
    ),
    pytest.param(
        layers(), plan("in out", Rule("0.weight", "out in"), Rule("1.weight", "out in")), ClaimError,
        ["the tensor", "'0.weight'", "'1.weight'"], id="two parameters without a stack axis",
    ),
    pytest.param(
        Tiny(width=4),
        plan("(layer role) in out", Rule("blocks.{layer}.qkv.weight", "(role out) in", role=list("abcde"))),
        SizeError, ["'blocks.0.qkv.weight'", "(12, 4)", "divisible by role=5"], id="a list of a wrong length",
    ),
    pytest.param(
        Tiny(width=4), plan("layer in head dim", Rule("blocks.{layer}.proj.weight", "(head dim) in"),
                            axis_sizes={"head": 3}),
        SizeError, ["'blocks.0.proj.weight'", "(4, 4)", "head=3"], id="a given size that does not divide",
    ),
    pytest.param(
        Tiny(width=4), plan("layer in head dim", Rule("blocks.{layer}.proj.weight", "(head dim) in")),
        SizeError, ["one axis of unknown size in (head dim)", "axis_sizes={'head'"], id="two sizes unknown",
    ),
    pytest.param(
        Tiny(width=4), plan("layer in head dim", Rule("blocks.{layer}.proj.weight", "(head dim) in"),
                            axis_sizes={"head": 2, "dim": 3}),
        SizeError, ["(4, 4)", "head=2 x dim=3"], id="given sizes with another product",
    ),
    pytest.param(
        Tiny(width=4), plan("layer in out", Rule("blocks.{layer}.conv.weight", "out in 1 1")),
        SizeError, ["'blocks.0.conv.weight'", "(4, 4, 3, 3)"], id="1 on a dimension of size 3",
    ),
    pytest.param(
        layers(), plan("layer out", Rule("{layer}.weight", "out")), SizeError, ["'0.weight'", "1 dimension", "(6, 6)"],
        id="too few dimensions",
    ),
    pytest.param(
        layers(), plan("layer in out", Rule("{layer}.bias", "out in")), SizeError, ["'0.bias'", "2 dimension", "(6,)"],
        id="too many dimensions",
    ),
    pytest.param(
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 6)), layers_plan(), SizeError,
        ["axis 'out' has two sizes", "4", "'1.weight' (6, 4)"], id="two sizes of one axis",
    ),
    pytest.param(
        Tiny(width=4, ratio=2),
        plan("(layer role) in out", PROJ, Rule("blocks.{layer}.fc1.weight", "out in", role="u")),
        SizeError, ["'out'", "'blocks.0.fc1.weight' (8, 4)"], id="two sizes of one axis by two rules",
    ),
    pytest.param(
        nn.ModuleDict({"a_0": nn.Linear(2, 2), "a_1": nn.Linear(2, 2), "b_1": nn.Linear(2, 2)}),
        plan("layer role in out", *[Rule(f"{r}_{{layer}}.weight", "out in", role=r) for r in "ab"]), PlanError,
        ["layer=0, role='b'", "(layer role)"], id="a place that nothing fills",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("model", "wrong", "kind", "words"), REFUSALS)
def test_a_plan_that_does_not_fit_is_refused(
    model: nn.Module, wrong: TensorizationPlan, kind: type[TensorfactError], words: list[str]
) -> None:
    with untouched(model), refused(kind, *words):
        wrong.resolve(model)


@pytest.mark.parametrize(("model", "wrong", "kind", "words"), REFUSALS)
def test_a_model_is_not_adapted_by_halves(
    model: nn.Module, wrong: TensorizationPlan, kind: type[TensorfactError], words: list[str]
) -> None:
    with untouched(model), refused(kind, *words):
        adapt(model, wrong, TensorTrain(1))


def test_one_wrong_rule_among_good_ones_is_named() -> None:
    wrong = plan("(layer role) in out", QKV, Rule("blocks.{layer}.prj.weight", "out in", role="o"))
    with refused(NoMatchError, "'blocks.{layer}.prj.weight'"):
        wrong.resolve(Tiny())


@pytest.mark.parametrize("thing", [False, "model", 3])
def test_what_is_no_plan_is_refused(thing: Any) -> None:
    model = layers()
    with untouched(model), refused(AdaptError, repr(thing), "plan_for"):
        adapt(model, thing, TensorTrain(1))


# ---------------------------------------------------------------------------------------------------------------- sides


class Stacks(nn.Module):
    """Parameters of three and four dimensions that belong to no convolution, and some that do."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.zeros(3, 8, 5))
        self.deep = nn.Parameter(torch.zeros(2, 3, 8, 5))
        self.conv = nn.Conv1d(5, 8, 3)
        self.linear = nn.Linear(5, 8)


@pytest.mark.parametrize(
    ("param", "pattern", "labels", "sides", "expected"),
    [
        ("experts", "expert (role out) in", {"role": ["a", "b"]}, None, {"expert": "stack", "out": "out", "in": "in"}),
        ("experts", "expert out in", {"expert": [0, 1, 2]}, None, {"out": "out", "in": "in"}),
        ("experts", "e out (role in)", {"role": list("abcde")}, None, {"e": "stack", "out": "out", "in": "in"}),
        ("experts", "e in out", {}, {"in": "in", "out": "out"}, {"e": "stack", "in": "in", "out": "out"}),
        ("experts", "out in k", {}, {"out": "out", "in": "in", "k": "in"}, {"out": "out", "in": "in", "k": "in"}),
        ("deep", "a e out in", {"a": [0, 1]}, {"e": "stack"}, {"e": "stack", "out": "out", "in": "in"}),
        ("deep", "out in kh kw", {}, None, {"out": "out", "in": "in", "kh": "in", "kw": "in"}),
        ("conv.weight", "out in k", {}, None, {"out": "out", "in": "in", "k": "in"}),
        ("conv.weight", "(role out) in k", {"role": ["a", "b"]}, None, {"out": "out", "in": "in", "k": "in"}),
        ("conv.weight", "role in k", {"role": list(range(8))}, None, {"in": "in", "k": "in"}),
        ("linear.weight", "role in", {"role": list(range(8))}, None, {"in": "in"}),
        ("linear.weight", "out in", {}, {"in": "stack"}, {"out": "out", "in": "stack"}),
    ],
)
def test_the_side_of_an_axis(param: str, pattern: str, labels: Any, sides: Any, expected: dict[str, str]) -> None:
    rule = Rule(param, pattern, **labels)
    axes = [*labels, *rule.free]
    resolved = plan(" ".join(axes), rule, sides=sides).resolve(Stacks())
    found = {mode.name: mode.side for mode in resolved["g"].modes}
    assert found == {**dict.fromkeys(labels, "stack"), **expected}


def test_a_stack_may_be_split_into_a_stack_and_more() -> None:
    rule = Rule("experts", "(e part) out in")
    group = Group("g", "e part out in", (rule,), axis_sizes={"e": 3}, sides={"e": "stack"})
    found = {mode.name: mode.side for mode in TensorizationPlan((group,)).resolve(Stacks())["g"].modes}
    assert found == {"e": "stack", "part": "stack", "out": "out", "in": "in"}


def test_a_merged_mode_has_the_side_of_its_first_axis_that_is_not_stacked() -> None:
    resolved = plan("(expert out) in", Rule("experts", "expert out in")).resolve(Stacks())
    assert [mode.side for mode in resolved["g"].modes] == ["out", "in"]


def test_what_is_left_out_says_why() -> None:
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)), nn.Linear(8, 2))
    resolved = TensorizationPlan((Group("g", "in out", (Rule("0.weight", "out in"),)),)).resolve(model)
    assert resolved.parameters == ("0.weight",)
    assert {left.parameter: left.reason for left in resolved.left_out if left.parameter.endswith("weight")} == {
        "1.weight": "no rule names it",
        "2.weight": "no rule names it",
        "3.weight": "the only one of its shape",
    }

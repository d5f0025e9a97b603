"""Adapting a model: what it changes, what it gives back, and every way in which it is refused."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from tensorfact import (
    CP,
    Adapter,
    Group,
    MatrixBatch,
    Rule,
    TensorizationPlan,
    TensorTrain,
    Tucker,
    adapt,
    load_adapter,
)
from tensorfact.errors import AdaptError, FormatError, PlanError, RankError, TensorfactError

from .helpers import (
    Tiny,
    bits,
    difference,
    draw,
    ids,
    infer,
    layers,
    layers_plan,
    randomise,
    refused,
    snapshot,
    state_bits,
    untouched,
)
from .strategies import Adaptation, adaptations

TT = TensorTrain(2)
NAN, INFINITY = float("nan"), float("inf")


def qkv_plan(*labels: str | None) -> TensorizationPlan:
    rule = Rule("blocks.{layer}.qkv.weight", "(role out) in", role=labels or ("q", "k", "v"))
    return TensorizationPlan((Group("g", "(layer role) in out", (rule,)),))


# --------------------------------------------------------------------------------------------------- what it changes


@given(adaptations())
def test_adapting_freezes_the_base_and_trains_factors_and_head(adaptation: Adaptation) -> None:
    model = adaptation.case.build()
    keys, types = list(model.state_dict()), [type(module) for module in model.modules()]
    adapter = adapt(model, adaptation.case.plan, adaptation.formats)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    factors = {f"tensorfact.{name}" for name, _ in adapter.named_parameters()}
    networks = {t.name: t.network(adapter.formats[t.name]) for t in adapter.resolved.tensors}
    given = {f"tensorfact.factors.{t}.cores.{c.name}" for t, n in networks.items() for c in n.cores if not c.trained}
    assert trained == (factors - given) | {"head.weight", "head.bias"}
    assert [key for key in model.state_dict() if not key.startswith("tensorfact.")] == keys
    assert {key for key in model.state_dict() if key.startswith("tensorfact.")} == factors
    assert model.tensorfact is adapter
    assert adapter.model is model
    assert all(isinstance(m, kind) for m, kind in zip(list(model.modules())[: len(types)], types, strict=True))


@given(adaptations())
def test_removing_gives_the_base_model_back(adaptation: Adaptation) -> None:
    model = adaptation.case.build()
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(True)
    with untouched(model):
        adapter = adapt(model, adaptation.case.plan, adaptation.formats, scale=adaptation.scale)
        draw(adapter)
        adapter.remove()


@given(adaptations())
def test_removing_after_merging_leaves_the_merged_weights(adaptation: Adaptation) -> None:
    model, adapter = adaptation.drawn()
    x = ids()
    adapter.merge()
    merged, weights = infer(model, x), {n: b for n, b in state_bits(model).items() if not n.startswith("tensorfact.")}
    adapter.remove()
    assert state_bits(model) == weights
    assert torch.equal(infer(model, x), merged)
    adapt(model, adaptation.case.plan, adaptation.formats)


@given(adaptations())
def test_disabled_runs_the_base_model_merged_or_not(adaptation: Adaptation) -> None:
    plain = infer(adaptation.case.build(), ids())
    model, adapter = adaptation.drawn()
    adapted = infer(model, ids())
    with adapter.disabled():
        assert torch.equal(infer(model, ids()), plain)
        with adapter.disabled():
            assert torch.equal(infer(model, ids()), plain)
    assert torch.equal(infer(model, ids()), adapted)
    adapter.merge()
    before = snapshot(model)
    with adapter.disabled():
        assert torch.equal(infer(model, ids()), plain)
    assert adapter.merged
    assert snapshot(model) == before


def test_disabled_ends_with_an_error_too() -> None:
    model = layers()
    adapter = adapt(model, layers_plan(), TT)
    draw(adapter)
    adapter.merge()
    before = snapshot(model)
    with pytest.raises(KeyError), adapter.disabled():
        raise KeyError
    assert snapshot(model) == before
    assert adapter.merged


def test_the_root_may_be_a_sequential_whose_children_are_called_in_turn() -> None:
    model = layers(3)
    adapter = adapt(model, layers_plan(), TT)
    assert model(torch.randn(2, 6)).shape == (2, 6)
    assert [type(module).__name__ for module in model][-1] == "Adapter"
    adapter.remove()
    assert len(model) == 3


@given(adaptations(called=True))
def test_a_copy_is_another_model(adaptation: Adaptation) -> None:
    model, adapter = adaptation.drawn()
    twin = copy.deepcopy(model)
    expected, before = infer(model, ids()), snapshot(model)
    assert torch.equal(infer(twin, ids()), expected)
    other = cast("Adapter", twin.tensorfact)
    assert other is not adapter
    assert other.model is twin
    draw(other, seed=1)
    assert not torch.equal(infer(twin, ids()), expected)
    other.merge()
    other.remove()
    assert snapshot(model) == before
    assert torch.equal(infer(model, ids()), expected)
    with adapter.disabled():
        assert not torch.equal(infer(model, ids()), expected)


def test_a_copy_of_a_merged_model_unmerges_on_its_own() -> None:
    model = randomise(layers())
    base = state_bits(model)
    adapter = adapt(model, layers_plan(), TT)
    draw(adapter)
    adapter.merge()
    twin = cast("Adapter", copy.deepcopy(model).tensorfact)
    twin.unmerge()
    assert adapter.merged
    assert not twin.merged
    assert {n: b for n, b in state_bits(twin.model).items() if not n.startswith("tensorfact.")} == base


def test_factors_follow_the_model_to_another_dtype_once_each() -> None:
    model = layers()
    adapter = adapt(model, layers_plan(), TT)
    model.to(torch.float64)
    assert {p.dtype for p in adapter.parameters()} == {torch.float64}
    assert infer(model, torch.randn(2, 6, dtype=torch.float64)).dtype == torch.float64
    assert len(list(model.parameters())) == 4 + 3


def test_training_mode_reaches_the_factors() -> None:
    model = layers().eval()
    adapter = adapt(model, layers_plan(), TT, dropout=0.5)
    assert not adapter.training
    model.train()
    assert all(module.training for module in adapter.modules())


def test_state_dict_round_trip_through_another_adapted_model() -> None:
    one, two = randomise(Tiny(), 0), randomise(Tiny(), 1)
    draw(adapt(one, qkv_plan(), TT))
    adapt(two, qkv_plan(), TT)
    two.load_state_dict(one.state_dict())
    assert torch.equal(infer(one, ids()), infer(two, ids()))


def test_functional_call_reaches_base_and_factors() -> None:
    model = randomise(Tiny(width=6)).eval()
    adapter = adapt(model, qkv_plan(), TT, route="activation")
    draw(adapter)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    adapted = infer(model, ids())
    core = next(name for name in state if name.startswith("tensorfact.") and name.endswith("V"))
    with torch.no_grad():
        same = torch.func.functional_call(model, state, (ids(),))
        without = torch.func.functional_call(model, {**state, core: torch.zeros_like(state[core])}, (ids(),))
    assert torch.equal(same, adapted)
    with adapter.disabled():
        assert difference(without, infer(model, ids())) < 1e-6
    assert torch.equal(infer(model, ids()), adapted)


def test_delta_is_the_increment_with_its_scale() -> None:
    model = randomise(layers())
    base = state_bits(model)
    adapter = adapt(model, layers_plan(), TT, scale=-2.5)
    draw(adapter)
    increment, weight = adapter.delta("0.weight"), model.state_dict()["0.weight"]
    assert bits(weight) == base["0.weight"]
    assert difference(weight + increment, cast("nn.Linear", model[0]).weight) < 1e-6
    adapter.merge()
    assert torch.equal(adapter.delta("0.weight"), increment), "merged or not"
    with refused(AdaptError, "'0.weigth'", "did you mean '0.weight'?"):
        adapter.delta("0.weigth")


def test_formats_and_scales_may_differ_by_group() -> None:
    rules = {name: Rule(f"blocks.{{layer}}.{name}.weight", "out in") for name in ("proj", "fc1")}
    plan = TensorizationPlan(tuple(Group(name, "layer in out", (rule,)) for name, rule in rules.items()))
    model = Tiny()
    adapter = adapt(model, plan, {"proj": CP(3), "fc1": Tucker(2)}, scale={"proj": 2, "fc1": 0.5})
    assert adapter.scales == {"proj": 2.0, "fc1": 0.5}
    assert adapter.num_parameters == adapter.resolved.num_parameters(adapter.formats) == 3 * 10 + (4 + 8 + 16 + 8)
    with refused(FormatError, "'fcc'"):
        adapt(Tiny(), plan, CP(1), scale={"proj": 1.0, "fcc": 2.0})


def test_printing_a_model_names_the_formats_and_the_count() -> None:
    model = layers()
    adapt(model, layers_plan(), TT)
    assert "TensorTrain(rank=2), 32 parameters on 2 weights" in repr(model)


@given(adaptations())
def test_the_explanation_counts_every_parameter_once(adaptation: Adaptation) -> None:
    _, adapter = adaptation.fresh()
    for tokens in (1, 100, 4096):
        explanation = adapter.explain(tokens)
        named = [name for choice in explanation.choices for name in choice.parameters]
        assert sorted(named) == sorted(adapter.resolved.parameters)
        assert explanation.tokens == 1 << (tokens - 1).bit_length()
        assert explanation.flops == sum(choice.flops * len(choice.parameters) for choice in explanation.choices)
        assert f"{explanation.flops:,} FLOPs" in str(explanation)
        assert all(choice.order in str(explanation) for choice in explanation.choices)


@pytest.mark.parametrize("tokens", [0, -1, 1.5, True, "1", None])
def test_tokens_are_a_count(tokens: Any) -> None:
    adapter = adapt(layers(), layers_plan(), TT)
    with refused(AdaptError, "tokens", repr(tokens), fix=False):
        adapter.explain(tokens)


def test_any_optimizer_of_opt_einsum_gives_the_same_model() -> None:
    outputs = []
    for optimize in ("auto", "greedy", "dp"):
        model = randomise(Tiny(width=6))
        draw(adapt(model, qkv_plan(), TT, optimize=optimize))
        outputs.append(infer(model, ids()))
    assert all(difference(output, outputs[0]) < 1e-5 for output in outputs)


# ------------------------------------------------------------------------------------------------------------ the head


@pytest.mark.parametrize(
    ("train_head", "head"),
    [
        (True, {"head.weight", "head.bias"}),
        (False, set()),
        ("blocks.1.fc2", {"blocks.1.fc2.weight", "blocks.1.fc2.bias"}),
    ],
)
def test_the_head_that_trains(train_head: Any, head: set[str]) -> None:
    model = Tiny()
    adapter = adapt(model, qkv_plan(), TT, train_head=train_head)
    assert set(adapter.head) == head
    assert {n for n, p in model.named_parameters() if p.requires_grad and not n.startswith("tensorfact.")} == head


def test_a_head_of_another_name_is_refused() -> None:
    model = Tiny()
    with untouched(model), refused(AdaptError, "'haed'", "did you mean 'head'?"):
        adapt(model, qkv_plan(), TT, train_head="haed")


def test_a_head_in_the_plan_is_refused() -> None:
    model = Tiny()
    plan = TensorizationPlan((Group("g", "in out", (Rule("head.weight", "out in"),)),))
    with untouched(model), refused(AdaptError, "'head.weight'", "train_head=False"):
        adapt(model, plan, TT)
    adapt(model, plan, TT, train_head=False)


class Tied(nn.Module):
    """A head that shares its weight with the embedding, declared before or after it."""

    def __init__(self, *, head_first: bool) -> None:
        super().__init__()
        self.pretrained_cfg = {"classifier": "head"}
        if head_first:
            self.head = nn.Linear(4, 7, bias=False)
        self.embed = nn.Embedding(7, 4)
        self.fc = nn.Linear(4, 4)
        if not head_first:
            self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.head(self.fc(self.embed(x))))


def one_rule(param: str) -> TensorizationPlan:
    return TensorizationPlan((Group("g", "in out", (Rule(param, "out in"),)),))


@pytest.mark.parametrize("head_first", [False, True])
def test_a_head_that_is_tied_trains_whatever_the_order_of_its_names(head_first: bool) -> None:
    model = Tied(head_first=head_first)
    adapter = adapt(model, one_rule("fc.weight"), TensorTrain(1))
    assert adapter.head == ("head.weight",)
    assert model.head.weight.requires_grad


@pytest.mark.parametrize("head_first", [False, True])
def test_a_head_that_is_in_the_plan_under_its_other_name_is_refused(head_first: bool) -> None:
    model = Tied(head_first=head_first)
    with untouched(model), refused(AdaptError):
        adapt(model, one_rule("embed.weight"), TensorTrain(1))


@pytest.mark.parametrize("name", ["embed.weight", "head.weight"])
def test_a_tied_parameter_is_adapted_under_all_its_names(name: str) -> None:
    model = Tied(head_first=False)
    randomise(model).double()
    x = torch.tensor([[0, 3, 6]])
    adapter = adapt(model, one_rule(name), TensorTrain(2), train_head=False)
    draw(adapter)
    assert torch.equal(model.embed.weight, model.head.weight)
    adapted = infer(model, x)
    with adapter.disabled():
        assert difference(infer(model, x), adapted) > 1e-3
    adapter.merge()
    assert difference(infer(model, x), adapted) < 1e-10


# ------------------------------------------------------------------------------------------------------- the life cycle


def test_merging_and_unmerging_out_of_turn_is_refused() -> None:
    model = randomise(layers())
    adapter = adapt(model, layers_plan(), TT)
    with untouched(model), refused(AdaptError, "not merged", "call merge()"):
        adapter.unmerge()
    adapter.merge()
    with untouched(model), refused(AdaptError, "merged already", "call unmerge()"):
        adapter.merge()


@pytest.mark.parametrize("use", ["merge", "unmerge", "remove", "save", "disabled"])
def test_an_adapter_that_was_removed_is_refused(use: str, tmp_path: Any) -> None:
    adapter = adapt(layers(), layers_plan(), TT)
    adapter.remove()
    with refused(AdaptError, "removed"):
        if use == "save":
            adapter.save(tmp_path / "file")
        elif use == "disabled":
            with adapter.disabled():
                pass
        else:
            getattr(adapter, use)()


@pytest.mark.parametrize("again", ["root", "child", "parent"])
def test_a_model_that_is_adapted_is_not_adapted_again(again: str) -> None:
    child = randomise(layers())
    parent = nn.Sequential(child)
    adapt(child, layers_plan(), TT)
    target: nn.Module = {"root": child, "child": child[0], "parent": parent}[again]
    plan = one_rule("weight") if again == "child" else one_rule("0.weight" if again == "root" else "0.0.weight")
    with untouched(parent), refused(AdaptError, "adapted already", "remove()"):
        adapt(target, plan, TT)


def test_a_model_with_an_attribute_of_the_adapter_s_name_is_refused() -> None:
    model = layers()
    model.tensorfact = "taken"  # type: ignore[assignment]
    with untouched(model), refused(AdaptError, "tensorfact"):
        adapt(model, layers_plan(), TT)


def test_a_failed_merge_restores_every_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomise(layers(4))
    adapter = adapt(model, layers_plan(), TT)
    draw(adapter)
    slot = adapter._slots["2.weight"]

    def fail(*arguments: object, **options: object) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(slot.increment, "add_into", fail)
    with untouched(model), pytest.raises(MemoryError):
        adapter.merge()
    assert not adapter.merged


# ------------------------------------------------------------------------------------------------------------ bad input


BAD: list[Any] = [
    ({"format": TensorTrain(7)}, RankError, ["bond 1 <= 6", "rank=7"]),
    ({"format": MatrixBatch(7)}, RankError, ["rank <= 6", "rank=7"]),
    ({"format": Tucker((3, 1, 1))}, RankError, ["layer <= 2", "rank=(3, 1, 1)"]),
    ({"format": CP(13)}, RankError, ["terms <= 12", "rank=13"]),
    ({"format": "tt"}, FormatError, ["'tt'", "TensorTrain"]),
    ({"format": TensorTrain}, FormatError, ["TensorTrain"]),
    ({"format": {"stak": TT}}, FormatError, ["'stak'", "'stack'"]),
    ({"format": TensorTrain(1, order=("in", "out"))}, FormatError, ["('in', 'out')"]),
    *[({"scale": s}, AdaptError, ["scale", repr(s)]) for s in (NAN, INFINITY, -INFINITY, True, "1", None)],
    ({"scale": {"stack": NAN}}, AdaptError, ["scale", "nan"]),
    ({"scale": {"stak": 1.0}}, FormatError, ["scale", "'stak'"]),
    *[({"dropout": d}, AdaptError, ["dropout", repr(d)]) for d in (1.0, 1, -0.1, 2, NAN, True, False, "0", None)],
    *[({"route": r}, AdaptError, ["route", repr(r)]) for r in ("merge", "", None, 3)],
    ({"train_head": "nowhere"}, AdaptError, ["'nowhere'"]),
]  # fmt: skip


@pytest.mark.parametrize(("options", "kind", "words"), BAD, ids=lambda value: re.sub(r"\s+", " ", str(value))[:60])
def test_a_bad_argument_is_named_and_leaves_the_model_untouched(
    options: dict[str, Any], kind: type[TensorfactError], words: list[str]
) -> None:
    model = randomise(layers())
    model.get_parameter("1.bias").requires_grad_(False)
    arguments: dict[str, Any] = {"format": TT, **options}
    with untouched(model), refused(kind, *words, fix="order" not in str(options)):
        adapt(model, layers_plan(), **arguments)


@pytest.mark.parametrize("thing", [None, "model", Tensor, nn.Linear])
def test_what_is_no_model_is_refused(thing: Any) -> None:
    with refused(AdaptError, "model", type(thing).__name__, fix=False):
        adapt(thing, layers_plan(), TT)


@pytest.mark.parametrize("seed", ["0", 1.5, object()])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    model = layers()
    with untouched(model), refused(AdaptError, "seed", repr(seed), fix=False):
        adapt(model, layers_plan(), TT, seed=seed)


class Final(nn.Linear):
    """A module of a class that allows no subclass."""

    def __init_subclass__(cls, **options: Any) -> None:
        raise TypeError("final")


def integers() -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(6, 6, dtype=torch.int64), requires_grad=False)
    return module


@pytest.mark.parametrize(
    ("make", "param", "words"),
    [
        (lambda: nn.LSTM(6, 6), "weight_hh_l0", ["'1.weight_hh_l0'", "LSTM"]),
        (lambda: nn.GRU(6, 2), "weight_ih_l0", ["'1.weight_ih_l0'", "GRU"]),
        (integers, "weight", ["'1.weight'", "int64"]),
        (lambda: torch.jit.script(nn.Linear(6, 6)), "weight", ["'1.weight'"]),
    ],
    ids=["LSTM", "GRU", "integers", "scripted"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_a_module_that_cannot_be_adapted_is_refused(
    make: Callable[[], nn.Module], param: str, words: list[str]
) -> None:
    model = nn.Sequential(nn.Linear(6, 6), make())
    plan = TensorizationPlan(
        (
            Group("a", "in out", (Rule("0.weight", "out in"),)),
            Group("b", "in out", (Rule(f"1.{param}", "out in"),)),
        )
    )
    with untouched(model), refused(AdaptError, *words):
        adapt(model, plan, TensorTrain(1))


def test_a_module_whose_class_cannot_be_changed_leaves_the_model_untouched() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Final(6, 6), nn.Linear(6, 6))
    with untouched(model), pytest.raises((TensorfactError, TypeError)):
        adapt(model, layers_plan(), TT)


@pytest.mark.parametrize("name", ["values", "keys", "items", "train", "training", "type", "forward"])
def test_a_group_is_not_named_like_an_attribute_of_a_module(name: str) -> None:
    """torch walks a path such as `tensorfact.factors.NAME` by attributes."""
    with refused(PlanError, repr(name), "attribute"):
        Group(name, "layer in out", (Rule("{layer}.weight", "out in"),))


@pytest.mark.parametrize("name", ["encoder", "key", "a group"])
def test_torch_finds_factors_by_their_names_whatever_the_group_s(name: str) -> None:
    """`functional_call`, `get_submodule` and `get_parameter` walk a path by attributes."""
    plan = TensorizationPlan((Group(name, "layer in out", (Rule("{layer}.weight", "out in"),)),))
    model = randomise(layers())
    adapter = adapt(model, plan, TT, seed=0)
    draw(adapter)
    x = torch.ones(2, 6)
    state = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(torch.func.functional_call(model, state, (x,)), infer(model, x))
    for path, parameter in model.named_parameters():
        if path.startswith("tensorfact."):
            assert model.get_parameter(path) is parameter


def test_a_default_device_does_not_decide_where_factors_live(tmp_path: Any) -> None:
    """They live where the base weights do; `meta`, which holds no numbers, stands for any other device."""
    model, twin = randomise(layers()), randomise(layers())
    with torch.device("meta"):
        adapter = adapt(model, layers_plan(), TT, seed=0)
    draw(adapter)
    with torch.device("meta"):
        adapter.merge()
        adapter.unmerge()
        adapter.save(tmp_path / "file")
        load_adapter(twin, tmp_path / "file")
    assert {p.device.type for p in twin.parameters()} == {"cpu"}
    x = torch.ones(2, 6)
    assert torch.equal(infer(twin, x), infer(model, x))


def test_a_partition_value_holds_no_dot() -> None:
    rule = Rule("{layer}.weight", "out in", kind="a.b")
    plan = TensorizationPlan((Group("g", "layer in out", (rule,), partition="kind"),))
    with refused(PlanError, "'a.b' holds a dot"):
        adapt(layers(), plan, TT)


@pytest.mark.parametrize("value", ["a b", "[0]", "", 3, -1])
def test_a_partition_may_have_any_value(value: Any) -> None:
    rule = Rule("{layer}.weight", "out in", kind=value)
    plan = TensorizationPlan((Group("g", "layer in out", (rule,), partition="kind"),))
    adapter = adapt(layers(), plan, TT)
    assert list(adapter.formats) == [f"g[{value}]"]

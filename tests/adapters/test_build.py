"""`adapt`: what it changes on a model, and the errors for invalid arguments and models."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

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
    load_adapter,
    plan_for,
)
from tensorfact.adapters.options import fresh_seed
from tensorfact.errors import AdaptError, CheckpointError, FormatError, PlanError, RankError, TensorfactError
from tensorfact.lab import nano
from tests.helpers import (
    TT,
    Tiny,
    bits,
    difference,
    draw,
    ids,
    infer,
    layers,
    layers_plan,
    one_rule,
    qkv_plan,
    randomise,
    refused,
    untouched,
)
from tests.strategies import Adaptation, adaptations

NAN, INFINITY = float("nan"), float("inf")


# ------------------------------------------------------------------------------------------------------ what it changes


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
    assert {key for key in model.state_dict() if key.startswith("tensorfact.")} == factors | {
        "tensorfact.scale_state.scales"
    }
    assert model.tensorfact is adapter
    assert adapter.model is model
    assert all(isinstance(m, kind) for m, kind in zip(list(model.modules())[: len(types)], types, strict=True))


def test_any_optimizer_of_opt_einsum_gives_the_same_model() -> None:
    outputs = []
    for optimize in ("auto", "greedy", "dp"):
        model = randomise(Tiny(width=6))
        draw(adapt(model, qkv_plan(), TT, optimize=optimize))
        outputs.append(infer(model, ids()))
    assert all(difference(output, outputs[0]) < 1e-5 for output in outputs)


def test_by_default_the_plan_is_that_of_the_family_and_the_format_a_tensor_train() -> None:
    one, two = nano(), nano()
    mine, spelled = adapt(one, seed=0), adapt(two, plan_for(two), TensorTrain(rank=8), seed=0)
    assert mine.plan == spelled.plan
    assert mine.formats == spelled.formats == {"encoder": TensorTrain(rank=8)}
    assert {n: bits(c) for n, c in mine.named_cores().items()} == {n: bits(c) for n, c in spelled.named_cores().items()}


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("cp:rank=3", CP(3)),
        ("tucker:rank=(2,1,2)", Tucker((2, 1, 2))),
        ({"stack": "matrix-batch:rank=2"}, MatrixBatch(2)),
    ],
)
def test_a_format_may_be_text(text: Any, format: Format) -> None:
    model = layers()
    found = adapt(model, layers_plan(), text)
    assert list(found.formats.values()) == [format]
    assert found.resolved.num_parameters(text) == found.resolved.num_parameters(format) == found.num_parameters
    found.convert("matrix-batch:rank=1")
    assert list(found.formats.values()) == [MatrixBatch(1)]


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


# ------------------------------------------------------------------------------------------------------------ bad input


BAD: list[Any] = [
    ({"format": TensorTrain(7)}, RankError, ["bond 1 <= 6", "rank=7"]),
    ({"format": MatrixBatch(7)}, RankError, ["rank <= 6", "rank=7"]),
    ({"format": Tucker((3, 1, 1))}, RankError, ["layer <= 2", "rank=(3, 1, 1)"]),
    ({"format": CP(13)}, RankError, ["terms <= 12", "rank=13"]),
    ({"format": "tt"}, FormatError, ["'tt'", "tt:rank=4"]),
    ({"format": "tt:rnk=4"}, FormatError, ["rnk", "tt:rank=4"]),
    ({"format": 8}, FormatError, ["8", "'tt:rank=8'"]),
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


def test_a_default_device_does_not_decide_where_factors_live(tmp_path: Any) -> None:
    """Factors are created on the device of the base weights; `meta` stands for any device but the CPU."""
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
    with refused(PlanError, "'a.b' contains a dot"):
        adapt(layers(), plan, TT)


@pytest.mark.parametrize("value", ["a b", "[0]", "", 3, -1])
def test_a_partition_may_have_any_value(value: Any) -> None:
    rule = Rule("{layer}.weight", "out in", kind=value)
    plan = TensorizationPlan((Group("g", "layer in out", (rule,), partition="kind"),))
    adapter = adapt(layers(), plan, TT)
    assert list(adapter.formats) == [f"g[{value}]"]


@pytest.mark.parametrize("optimize", ["greedyy", 3, None, ["greedy"]])
def test_an_optimiser_that_opt_einsum_does_not_know_is_refused(optimize: Any) -> None:
    model = layers()
    with untouched(model), refused(AdaptError, "adapt: optimize", "optimize='auto'"):
        adapt(model, layers_plan(), TensorTrain(2), optimize=optimize)


def test_a_head_that_is_found_by_its_name_is_what_the_plan_leaves_of_it() -> None:
    for param, head in (("fc.weight", {"head.weight", "head.bias"}), ("head.weight", {"head.bias"})):
        model = nn.Sequential(OrderedDict(fc=nn.Linear(6, 6), head=nn.Linear(6, 6)))
        assert set(adapt(model, one_rule(param), TT).head) == head


def test_a_model_with_some_weights_on_the_meta_device_takes_no_adapter_from_a_file() -> None:
    plan = TensorizationPlan((Group("g", "in out", (Rule("{layer}.weight", "out in"),), partition="layer"),))
    state, model = adapt(layers(), plan, TT).state, layers()
    model[1].to("meta")
    with refused(AdaptError, "meta device"):
        load_adapter(model, state, check_base=False)


def test_a_seed_is_drawn_whatever_the_default_device() -> None:
    torch.manual_seed(0)
    expected = fresh_seed()
    torch.manual_seed(0)
    with torch.device("meta"):
        assert fresh_seed() == expected


@pytest.mark.parametrize("wrong", [None, 5, b"x", 1.5, True, [], {}, ("a", "b"), object, "", "a\0b", "\ud800"])
def test_what_is_no_path_is_refused(wrong: Any) -> None:
    model = randomise(layers())
    with untouched(model), refused(CheckpointError if isinstance(wrong, str) else AdaptError, "path", fix=False):
        load_adapter(model, wrong)
    adapter = adapt(model, layers_plan(), TT)
    with untouched(model), refused(CheckpointError, "path"):
        adapter.save(wrong)


@pytest.mark.parametrize("kind", ["adapter", "bank"])
def test_an_adapter_of_another_format_takes_the_place_of_the_present_one(kind: str, tmp_path: Path) -> None:
    model, other, x = nano(), nano(), torch.randn(2, 1, 28, 28)
    base = infer(model, x)
    adapter = adapt(other, plan_for(other), MatrixBatch(2), seed=1)
    draw(adapter)
    with torch.no_grad():
        other.get_parameter("head.weight").add_(0.1)
    adapter.save(tmp_path / "other")
    expected = infer(other, x)
    tasks = ["one", "two"]
    format = "tt:rank=4"
    first = adapt(model, format=format, seed=0, tasks=tasks) if kind == "bank" else adapt(model, format=format, seed=0)
    draw(first)
    with torch.no_grad():
        model.get_parameter("head.bias").add_(1.0)
    before = infer(model, x)
    (tmp_path / "damaged").write_bytes(b"garbage")
    with pytest.raises(TensorfactError):
        load_adapter(model, tmp_path / "damaged", replace=True)
    assert model.tensorfact is first
    assert torch.equal(infer(model, x), before)
    with refused(AdaptError, "adapted already"):
        load_adapter(model, tmp_path / "other")
    second = load_adapter(model, tmp_path / "other", replace=True)
    assert model.tensorfact is second
    assert torch.equal(infer(model, x), expected)
    second.remove()
    assert torch.equal(infer(model, x), base)

"""The adapter on its model: names, increments, learning rates, converting and rounding in place."""

from __future__ import annotations

import contextlib
import copy
import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from torch import nn

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
    plan_for,
    round_ranks,
)
from tensorfact.errors import AdaptError, CheckpointError, FormatError
from tests.bundled import nano, plan
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
    qkv_plan,
    randomise,
    refused,
    stacked,
    state_bits,
    untouched,
)


def test_factors_follow_the_model_to_another_dtype_once_each() -> None:
    model = layers()
    adapter = adapt(model, layers_plan(), TT)
    model.to(torch.float64)
    assert {p.dtype for p in adapter.parameters()} == {torch.float64}
    assert infer(model, torch.randn(2, 6, dtype=torch.float64)).dtype == torch.float64
    assert len(list(model.parameters())) == 4 + 3


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


def test_factors_have_learning_rates_of_their_own() -> None:
    model = nano()
    adapter = adapt(model, plan(), MatrixBatch(4), seed=0)
    cores = adapter.named_cores()
    groups = adapter.parameter_groups(1e-3, {"B": 16, "head": 0.5})
    assert [group["lr"] for group in groups] == [0.5e-3, 1e-3, 16e-3]
    assert groups[2]["params"][0] is cores["encoder.B"]
    assert sum(len(group["params"]) for group in groups) == 4
    assert len(adapter.parameter_groups(1e-3)) == 1
    assert adapter.parameter_groups(1.0, {"B": 2, "encoder.B": 3})[-1]["lr"] == 3.0
    for name, factor in (("b", 2), ("B", 0), ("B", math.nan), ("B", "x")):
        with refused(AdaptError, name, fix=False):
            adapter.parameter_groups(1e-3, {name: factor})  # type: ignore[dict-item]


@pytest.mark.parametrize("state", ["adapted", "merged", "unmerged", "copied"])
@pytest.mark.parametrize("make", [lambda: nano(), Tiny, lambda: Tiny(read=True), lambda: layers(3)])
def test_every_parameter_is_found_by_its_name(make: Callable[[], nn.Module], state: str) -> None:
    model = make()
    plans: dict[type[nn.Module], Callable[[], TensorizationPlan]] = {nn.Sequential: layers_plan, Tiny: qkv_plan}
    adapter = adapt(model, plans.get(type(model), plan)(), TT, seed=0)
    draw(adapter)
    if state != "adapted":
        adapter.merge()
    if state == "unmerged":
        adapter.unmerge()
    model = copy.deepcopy(model) if state == "copied" else model
    for name, parameter in model.named_parameters():
        assert model.get_parameter(name) is parameter


@pytest.mark.parametrize("wrong", ["fast", None, [1e-3], -1.0, 0.0, float("nan"), torch.ones(2)])
def test_learning_rates_are_numbers_in_a_dict(wrong: Any) -> None:
    adapter = adapt(layers(), layers_plan(), TensorTrain(2), check=False)
    with refused(AdaptError, "parameter_groups: lr"):
        adapter.parameter_groups(wrong)
    if wrong is not None:
        with refused(AdaptError, "parameter_groups: factors"):
            adapter.parameter_groups(1e-3, wrong)


def test_a_converted_adapter_trains_saves_and_merges(tmp_path: Path) -> None:
    model, adapter, x = stacked()
    old, hooks = list(adapter.parameters()), len(model._forward_hooks)
    adapter.convert(CP(6))
    new = list(adapter.parameters())
    assert len(model._forward_hooks) == hooks
    assert not {id(p) for p in old} & {id(p) for p in new}
    assert {id(p) for p in model.parameters()} >= {id(p) for p in new}
    model(x).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in new)
    adapted = infer(model, x)
    adapter.save(tmp_path / "a.safetensors")
    adapter.merge()
    assert difference(infer(model, x), adapted) < 1e-12
    adapter.unmerge()
    adapter.remove()
    again = load_adapter(model, tmp_path / "a.safetensors", check=False)
    assert again.formats == {"stack": CP(6)}
    assert difference(infer(model, x), adapted) < 1e-12


def test_a_copy_is_converted_by_itself() -> None:
    model, adapter, x = stacked()
    other: Any = copy.deepcopy(model)
    expected = infer(model, x)
    other.tensorfact.round(rank=1)
    assert torch.equal(infer(model, x), expected)
    assert difference(infer(other, x), expected) > 1e-3
    assert adapter.formats == {"stack": TensorTrain(3)}


def test_a_compiled_model_sees_the_new_factors() -> None:
    model, adapter, x = stacked()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(x)
    adapter.round(rank=1)
    assert difference(compiled(x).detach(), infer(model, x)) < 1e-12


def test_one_format_a_group() -> None:
    sizes = {"img_size": 56, "depths": (2, 1), "embed_dim": 24, "num_heads": (2, 4)}
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, **sizes)
    adapter = adapt(model, plan_for(model), TensorTrain(4), check=False, seed=0)
    draw(adapter)
    names = list(adapter.formats)
    assert len(names) == 2
    found = adapter.convert({name: Tucker("full") if at else TensorTrain(4) for at, name in enumerate(names)})
    assert [type(change.format) for change in found.changes] == [TensorTrain] + [Tucker] * (len(names) - 1)
    assert max(change.error for change in found.changes) < 1e-5
    assert str(found).count("tucker") == len(names) - 1


@pytest.mark.parametrize("state", ["merged", "disabled", "removed"])
def test_only_an_adapter_at_work_is_changed(state: str) -> None:
    _, adapter, x = stacked()
    changes: list[Callable[[], object]] = [
        lambda: adapter.round(rank=1),
        lambda: adapter.convert(CP(2)),
        lambda: adapter.check(x),
        adapter.merge,
    ]
    changes += [adapter.unmerge, adapter.remove] if state != "merged" else []
    if state == "merged":
        adapter.merge()
    if state == "removed":
        adapter.remove()
    with adapter.disabled() if state == "disabled" else contextlib.nullcontext():
        for change in changes:
            with refused(AdaptError, f"the adapter {'was' if state == 'removed' else 'is'}", state):
                change()


def test_routes_stay_and_a_file_gives_the_same_bits(tmp_path: Path) -> None:
    model = nano()
    adapter = adapt(model, plan_for(model), TensorTrain(8), seed=0)
    draw(adapter)
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for rank in (4, 3, 2):
        adapter.round(rank=rank)
        assert {choice.route for choice in adapter.explain(32).choices} == {"activation"}
        adapter.save(tmp_path / "a.safetensors")
        again = nano()
        load_adapter(again, tmp_path / "a.safetensors")
        assert torch.equal(infer(again, x), infer(model, x))


def test_a_state_is_a_snapshot() -> None:
    model = nano()
    adapter = adapt(model, plan_for(model), TensorTrain(2), seed=0)
    found, state = round_ranks(adapter, rank=1), adapter.state
    before = model.get_parameter("head.weight").detach().clone()
    with torch.no_grad():
        model.get_parameter("head.weight").zero_()
    for each in (found.state, state):
        assert torch.equal(each.head["head.weight"], before)


def test_frozen_factors_stay_frozen() -> None:
    _, adapter, _ = stacked()
    adapter.factors.requires_grad_(False)
    adapter.round(rank=1)
    assert not any(p.requires_grad for p in adapter.parameters())


def test_a_frozen_core_stays_frozen() -> None:
    _, adapter, _ = stacked(TensorTrain(2), seed=1)
    adapter.named_cores()["stack.U"].requires_grad_(False)
    adapter.convert(TensorTrain(1))
    assert {name: core.requires_grad for name, core in adapter.named_cores().items()} == {
        "stack.U": False, "stack.S1": True, "stack.V": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "write",
    [
        lambda adapter: operator.setitem(adapter.scales, "stack", 3.0),
        lambda adapter: operator.setitem(adapter.formats, "stack", TensorTrain(1)),
        lambda adapter: operator.setitem(adapter.scales, "another", 3.0),
        lambda adapter: operator.delitem(adapter.scales, "stack"),
        lambda adapter: adapter.scales.update(stack=3.0),
        lambda adapter: setattr(adapter, "scales", {"stack": 3.0}),
        lambda adapter: setattr(adapter, "formats", {"stack": TensorTrain(1)}),
        lambda adapter: setattr(adapter, "dropout", 0.5),
    ],
)
def test_formats_and_scales_are_read_only(write: Callable[[Adapter], object]) -> None:
    """A scale written here would change the file and not the output."""
    adapter = adapt(layers(), layers_plan(), TensorTrain(2), scale=0.5)
    with pytest.raises((TypeError, AttributeError), match=r"not support|has no (attribute|setter)"):
        write(adapter)
    assert dict(adapter.scales) == {"stack": 0.5}
    assert dict(adapter.formats) == {"stack": TensorTrain(2)}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("core", ["U", "S1", "V"])
def test_factors_that_are_not_finite_are_not_merged_and_not_saved(core: str, value: float, tmp_path: Path) -> None:
    model = layers()
    adapter = adapt(model, layers_plan(), TensorTrain(2))
    with torch.no_grad():
        adapter.named_cores()[f"stack.{core}"].view(-1)[-1] = value
    with untouched(model), refused(AdaptError, f"'stack.{core}'", "NaN or infinity"):
        adapter.merge()
    with refused(CheckpointError, f"'factors.stack.{core}'", "NaN or infinity", "1 of"):
        adapter.save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e30), (torch.float16, 3e2), (torch.bfloat16, 1e30)])
def test_a_product_of_factors_that_overflows_is_not_merged(dtype: torch.dtype, size: float) -> None:
    model = layers().to(dtype)
    adapter = adapt(model, layers_plan(), TensorTrain(2))
    with torch.no_grad():
        for core in adapter.named_cores().values():
            core.fill_(size)
    with untouched(model), refused(AdaptError, "'0.weight'", "NaN or infinity", str(dtype)):
        adapter.merge()
    assert not adapter.merged


@pytest.mark.parametrize("scale", [1e300, -1e39, math.inf, math.nan])
def test_a_scale_beyond_fp32_is_refused(scale: float) -> None:
    model = layers()
    with untouched(model), refused(AdaptError, "scale", "fp32"):
        adapt(model, layers_plan(), TensorTrain(2), scale=scale)

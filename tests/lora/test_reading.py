"""LoRA in: what peft wrote comes in exactly, whatever the format."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tensorfact import (
    Group,
    MatrixBatch,
    Rule,
    TensorizationPlan,
    TensorTrain,
    Tucker,
    adapt,
    from_lora,
    load_adapter,
    plan_by_shape,
    plan_for,
)
from tensorfact.errors import DataError, RankError
from tests.helpers import difference, draw, infer, refused, untouched
from tests.lora.saved import CONFIGS, saved_by_peft, vit


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", [TensorTrain, Tucker, MatrixBatch])
def test_what_peft_wrote_comes_in_exactly(name: str, kind: Any, tmp_path: Path) -> None:
    base, model = saved_by_peft(CONFIGS[name](), tmp_path)
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    with untouched(base):
        found = from_lora(base, tmp_path, plan_by_shape(base), kind("full"), tolerance=1e-6, scale=-2.0)
    load_adapter(base, found.state, check=False)
    assert difference(infer(base, x), infer(model, x)) < 1e-5


def test_a_lower_rank_across_layers_reports_its_true_error(tmp_path: Path) -> None:
    base, model = saved_by_peft(CONFIGS["lora"](), tmp_path)
    found = from_lora(base, tmp_path, plan_by_shape(base), TensorTrain("full"), rank=3)
    merged = model.merge_and_unload()
    dense = {
        n: merged.get_parameter(n).detach() - base.get_parameter(n).detach()
        for n in found.state.description.plan.resolve(base).parameters
    }
    adapter = load_adapter(base, found.state, check=False)
    lost = sum(float((adapter.delta(n).detach() - value).square().sum()) for n, value in dense.items())
    whole = sum(float(value.square().sum()) for value in dense.values())
    assert found.changes[0].error == pytest.approx(math.sqrt(lost / whole), rel=1e-3)


def test_a_plan_must_cover_the_file_and_its_modes_must_keep_sides_apart(tmp_path: Path) -> None:
    base, _ = saved_by_peft(CONFIGS["lora"](), tmp_path)
    some = TensorizationPlan((Group("g", "layer in out", (Rule("blocks.{layer}.q.weight", "out in"),)),))
    with refused(DataError, "blocks.0.fc.weight"):
        from_lora(base, tmp_path, some, TensorTrain(2))
    for modes in ("(layer name in) out", "layer (name in) out", "layer name (in out)"):
        mixed = TensorizationPlan((Group("g", modes, (Rule("blocks.{layer}.{name}.weight", "out in"),)),))
        with refused(DataError, "low-rank matrices"):
            from_lora(base, tmp_path, mixed, TensorTrain(2))
    rule = Rule("blocks.{layer}.{name}.weight", "out in")
    good = TensorizationPlan((Group("g", "layer name in out", (rule,)),))
    assert from_lora(base, tmp_path, good, Tucker("full")).changes[0].error < 1e-6
    with refused(RankError, "tolerance"):
        from_lora(base, tmp_path, good, TensorTrain(1), tolerance=1e-3)


def test_a_part_that_the_plan_leaves_frozen_may_not_be_changed(tmp_path: Path) -> None:
    base = vit()
    adapter = adapt(base, plan_for(base), TensorTrain(2), seed=0)
    draw(adapter)
    adapter.to_lora(tmp_path)
    adapter.remove()
    rules = []
    for name, pattern, roles in (
        ("attn.qkv", "(role out) in", ["q", None, "v"]),
        ("attn.proj", "(role out) in", ["o"]),
        ("mlp.fc1", "(role out) in", [f"up{k}" for k in range(4)]),
        ("mlp.fc2", "out (role in)", [f"down{k}" for k in range(4)]),
    ):
        rules.append(Rule(f"blocks.{{layer}}.{name}.weight", pattern, role=roles))
    plan = TensorizationPlan((Group("g", "(layer role) in out", tuple(rules)),))
    with refused(DataError, "leaves frozen", "attn.qkv.weight"):
        from_lora(base, tmp_path, plan, TensorTrain(2))


@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_plan_the_layers_of_the_file_come_in_exactly(name: str, tmp_path: Path) -> None:
    base, model = saved_by_peft(CONFIGS[name](), tmp_path)
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    with untouched(base):
        found = from_lora(base, tmp_path)
    adapted = {f"{n}.weight" for n, module in model.get_base_model().named_modules() if hasattr(module, "base_layer")}
    assert set(found.state.description.plan.resolve(base).parameters) == adapted
    assert all(change.error < 1e-6 for change in found.changes)
    if name in ("lora", "patterns", "rslora"):  # two matrices a layer in the file too
        assert found.parameters == sum(change.numbers for change in found.changes)
    load_adapter(base, found.state, check=False)
    assert difference(infer(base, x), infer(model, x)) < 1e-5


def test_without_a_format_a_plan_of_ones_own_is_exact(tmp_path: Path) -> None:
    base = vit()
    adapter = adapt(base, plan_for(base), TensorTrain(2), seed=0)
    draw(adapter)
    expected = {name: adapter.delta(name).detach() for name in adapter.resolved.parameters}
    adapter.to_lora(tmp_path)
    adapter.remove()
    for plan in (None, plan_for(base)):
        found = load_adapter(base, from_lora(base, tmp_path, plan).state, check=False)
        assert all(difference(found.delta(name), value) < 1e-5 for name, value in expected.items())
        found.remove()


def test_a_stack_holds_layers_of_one_rank_and_shape(tmp_path: Path) -> None:
    base, _ = saved_by_peft(CONFIGS["patterns"](), tmp_path)
    shapes = {c.tensor: (c.format, c.source) for c in from_lora(base, tmp_path).changes}
    assert shapes == {
        "rank2[12,12]": (MatrixBatch(2), "3 of 3 layers"),
        "rank3[12,12]": (MatrixBatch(3), "1 of 1 layers"),
    }
    found = from_lora(base, tmp_path, rank=1)
    assert [change.format for change in found.changes] == [MatrixBatch(1), MatrixBatch(1)]

"""Plans by shape: everything is stacked, or left out with a reason."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tensorfact import Group, MatrixBatch, Rule, TensorizationPlan, adapt, plan_by_shape, plan_for
from tensorfact.errors import PlanError
from tensorfact.model.stacking import STACK
from tensorfact.network import Side
from tests.helpers import difference, draw, infer, randomise, refused
from tests.plan.families.members import outline


def random_model(seed: int) -> nn.Module:
    """Return a model of no family: nested blocks of a few widths, kernels, an embedding, a recurrent layer."""
    choose = random.Random(seed)

    def block(depth: int) -> nn.Module:
        a, b = choose.choice([4, 6]), choose.choice([4, 6])
        kinds: list[Callable[[], nn.Module]] = [
            lambda: nn.Linear(a, b),
            lambda: nn.Conv2d(a, b, 1),
            lambda: nn.Conv2d(a, b, choose.choice([(3, 3), (1, 3)])),
            lambda: nn.Conv1d(a, b, 3),
            lambda: nn.Conv2d(4, 8, 3, groups=4),
            lambda: nn.ConvTranspose2d(a, b, 3),
            lambda: nn.Embedding(a, b),
            lambda: nn.GRU(a, b),
            lambda: nn.LayerNorm(a),
            lambda: nn.ParameterDict({"w": torch.zeros(a, b), "bias_table": torch.zeros(a, b)}),
        ]
        if depth and choose.random() < 0.5:
            inner = [block(depth - 1) for _ in range(choose.randint(1, 4))]
            return (
                nn.ModuleList(inner)
                if choose.random() < 0.5
                else nn.ModuleDict({f"m{k}": m for k, m in enumerate(inner)})
            )
        return choose.choice(kinds)()

    return nn.ModuleList(block(3) for _ in range(8))


@given(st.integers(0, 2**20))
def test_by_shape_everything_is_stacked_or_left_out_with_a_reason(seed: int) -> None:
    model = random_model(seed)
    try:
        plan = plan_by_shape(model)
    except PlanError as error:
        assert "no two matrices" in str(error)  # noqa: PT017
        return
    resolved = plan.resolve(model)
    names = {name for name, _ in model.named_parameters()}
    left = {entry.parameter: entry for entry in resolved.left_out}
    assert set(resolved.parameters).isdisjoint(left)
    assert set(resolved.parameters) | set(left) == names
    assert all(len(tensor.views) > 1 for tensor in resolved.tensors)
    assert "no rule names it" not in {entry.reason for entry in left.values()}
    assert TensorizationPlan.from_json(plan.to_json()) == plan
    for name in resolved.parameters:
        assert not isinstance(model.get_submodule(name.rpartition(".")[0]), (nn.GRU, nn.Embedding, nn.LayerNorm))


def test_by_shape_holds_what_a_family_holds() -> None:
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "resnet50", "levit_128"):
        model = outline(name)
        resolved = plan_by_shape(model).resolve(model)
        matrices = {n for n, p in model.named_parameters() if p.dim() > 1 and n.endswith("weight")}
        left = {e.parameter for e in resolved.left_out if e.reason in ("the only one of its shape",)}
        head = {e.parameter for e in resolved.left_out if "head" in e.reason}
        depthwise = {e.parameter for e in resolved.left_out if "depthwise" in e.reason}
        assert matrices == (set(resolved.parameters) | left | head | depthwise) & matrices


def test_by_shape_refuses_a_model_with_nothing_to_stack() -> None:
    with refused(PlanError, "Sequential", "no two matrices"):
        plan_by_shape(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.LayerNorm(4)))


def mixture(name: str) -> nn.Module:
    """Return a small mixture of transformers, randomised."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"vocab_size": 64, "intermediate_size": 24, "moe_intermediate_size": 24, "head_dim": 8}
    sizes |= {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 20}
    config = transformers.AutoConfig.for_model(name, **sizes)
    model: nn.Module = transformers.AutoModelForCausalLM.from_config(config)
    return randomise(model.eval())


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    found: Any = infer(model, ids)
    return cast("Tensor", found["logits"])


EXPERTS = ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"]


@pytest.mark.parametrize("name", EXPERTS)
def test_by_shape_leaves_out_the_experts_of_a_mixture(name: str) -> None:
    model = mixture(name)
    resolved = plan_by_shape(model).resolve(model)
    experts = {n for n, p in model.named_parameters() if p.dim() == 3}
    assert len(experts) == 4
    assert experts == {left.parameter for left in resolved.left_out if left.reason == STACK}
    assert {tensor.group for tensor in resolved.tensors} == {"matrices"}
    assert resolved.share < 1


@pytest.mark.parametrize("name", EXPERTS)
def test_a_family_folds_the_experts_of_a_mixture_on_request(name: str) -> None:
    model = mixture(name)
    if name == "gpt_oss":  # of the same names; its experts store (in, out), and gate and up in turn
        with refused(PlanError, "mixtral family, but other shapes", "plan_by_shape"):
            plan_for(model)
        return
    experts = {n for n, p in model.named_parameters() if p.dim() == 3}
    dense = plan_for(model).resolve(model)
    assert not experts & set(dense.parameters)
    assert len(dense.parameters) == (14 if name == "qwen2_moe" else 8)
    assert set(plan_for(model, "experts").resolve(model).parameters) == experts
    (tensor,) = plan_for(model, "experts").resolve(model).tensors
    assert tensor.shape == (2 * 3 * 4, 32, 24)
    gate_up, down = (model.get_parameter(f"model.layers.1.mlp.experts.{n}_proj") for n in ("gate_up", "down"))
    slices = tensor.gather(dict(model.named_parameters()))[12:]
    for expert in range(4):
        expected = gate_up[expert, :24].T, gate_up[expert, 24:].T, down[expert]
        assert all(torch.equal(slices[4 * at + expert], matrix) for at, matrix in enumerate(expected))


@pytest.mark.parametrize("name", EXPERTS)
def test_a_rule_folds_experts_as_a_stack_of_matrices(name: str) -> None:
    model = mixture(name)
    transposed = name == "gpt_oss"  # (expert, in, out), with gate and up in turn
    pattern = "expert in (out role)" if transposed else "expert (role out) in"
    rule = Rule("model.layers.{layer}.mlp.experts.gate_up_proj", pattern, role=["gate", "up"])
    sides: Mapping[str, Side] | None = {"in": "in", "out": "out"} if transposed else None
    plan = TensorizationPlan((Group("experts", "(layer expert role) in out", (rule,), sides=sides),))
    assert TensorizationPlan.from_json(plan.to_json()) == plan
    (tensor,) = plan.resolve(model).tensors
    assert [mode.side for mode in tensor.modes] == ["stack", "in", "out"]
    assert tensor.shape == (16, 32, 24)
    weight = model.get_parameter("model.layers.1.mlp.experts.gate_up_proj")
    up = weight[2, :, 1::2] if transposed else weight[2, 24:].t()
    assert torch.equal(tensor.gather(dict(model.named_parameters()))[8 + 2 * 2 + 1], up)
    ids = torch.arange(8)[None]
    adapter = adapt(model, plan, MatrixBatch(2), train_head=False)
    assert adapter.num_parameters == 16 * 2 * (32 + 24)
    draw(adapter)
    expected = logits(model, ids)
    adapter.merge()
    assert difference(logits(model, ids), expected) < 1e-5


@pytest.mark.parametrize(("stages", "depth"), [(5, 2), (2, 5)])
def test_of_several_numbers_the_one_with_the_most_values_is_the_layer(stages: int, depth: int) -> None:
    model = nn.ModuleList(nn.ModuleList(nn.Linear(4, 4) for _ in range(depth)) for _ in range(stages))
    rules = [rule.param for rule in plan_by_shape(model).groups[0].rules]
    assert rules == (
        ["{layer}.0.weight", "{layer}.1.weight"] if stages > depth else ["0.{layer}.weight", "1.{layer}.weight"]
    )


@pytest.mark.parametrize("names", [("0", "1", "x"), ("x", "0", "1"), ("0", "x", "y", "1")])
def test_a_name_among_numbers_is_claimed_once(names: tuple[str, ...]) -> None:
    model = nn.ModuleDict({name: nn.Linear(4, 4) for name in names})
    (tensor,) = plan_by_shape(model).resolve(model).tensors
    assert sorted(view.parameter for view in tensor.views) == sorted(f"{name}.weight" for name in names)

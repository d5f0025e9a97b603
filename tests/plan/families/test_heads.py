"""Labels that follow the heads: every q, k and v is what the model computes with, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tensorfact import plan_for
from tensorfact.errors import PlanError
from tensorfact.lab.models import make_model
from tensorfact.plan.families import FAMILIES, Heads
from tensorfact.plan.families.heads import head_labels, stated
from tests.helpers import randomise, refused
from tests.plan.families.members import MEMBERS, example_of, member

UNSEEN = ("deberta", "mpnet", "convnext", "resnet")
"""Models without attention, and two that compute it from separate layers and keep nothing of it."""

NAMES = [name for name in MEMBERS if name.startswith("hf:") and not any(word in name for word in UNSEEN)]
BLOOM = "h.0.self_attention.query_key_value.weight"


class FirstCalls(TorchFunctionMode):
    """The first inputs of attention and of an activation in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.attention: tuple[Tensor, ...] = ()
        self.activation: tuple[Tensor, ...] = ()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.attention = self.attention or tuple(t.clone() for t in args[:3])
        if func in (F.gelu, F.silu, F.relu, torch.tanh):
            self.activation = self.activation or (args[0].clone(),)
        return func(*args, **kwargs)


def seen(model: nn.Module) -> dict[str, Tensor]:
    """Return what the first layer of a model computes with."""
    example = example_of(model)
    with torch.no_grad(), FirstCalls() as calls:
        output: Any = model(*example.arguments, **example.keywords)
    found = dict(zip("qkv", calls.attention, strict=False))
    cache: Any = getattr(output, "past_key_values", None)
    if not found and cache:  # a model that computes its attention itself keeps keys and values
        found = {"k": cache.layers[0].keys, "v": cache.layers[0].values}
    found |= dict(zip(["gate"], calls.activation, strict=False))
    return found


def perturb(model: nn.Module, role: str) -> None:
    """Add noise to every weight of a label, and to nothing else."""
    generator = torch.Generator().manual_seed(0)
    for tensor in plan_for(model, ["all", "experts"]).only(role=role).resolve(model).tensors:
        for view in tensor.views:
            parameter = model.get_parameter(view.parameter)
            with torch.no_grad():
                own = view.split(parameter)
                parameter.add_(view.join(torch.randn(own.shape, generator=generator)))


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", NAMES)
def test_a_label_is_the_part_of_the_weight_that_the_model_uses_as_such(name: str) -> None:
    plain = seen(member(name))
    assert {"k", "v"} <= plain.keys()
    plan = plan_for(member(name), ["all", "experts"]).resolve(member(name))
    found = list(dict.fromkeys(str(c) for tensor in plan.tensors for c in tensor.coordinates.get("role", ())))
    by_kind = {role.rstrip("0123456789"): role for role in found}  # of several chunks, the last
    for kind, role in by_kind.items():
        model = member(name)
        perturb(model, role)
        changed = {word for word, value in seen(model).items() if not torch.equal(value, plain[word])}
        expected = {kind} & plain.keys() if kind in ("q", "k", "v") else set()
        if kind not in ("conv", "reduction"):  # of images, before the attention
            assert changed - {"gate"} == expected, role
        if kind == "gate":
            assert "gate" in changed
        elif "gate" in by_kind and kind in ("up", "down"):
            assert "gate" not in changed, "the activation reads the gate, not what it multiplies"


def test_the_heads_of_a_weight_are_what_the_model_states() -> None:
    model = member("hf:bloom")
    part = next(part for part in FAMILIES["bloom"].parts if part.heads)
    assert part.heads is not None
    assert head_labels(model, part, part.heads, BLOOM, (96, 32)) == (4, ("q", "k", "v"))
    with refused(PlanError, "4 query heads, 4 keys and 4 values of 8 rows each", "80 rows"):
        head_labels(model, part, part.heads, BLOOM, (80, 32))
    with refused(PlanError, "states num_kv_heads"):
        head_labels(model, part, Heads("num_heads", "head_dim", "num_kv_heads"), BLOOM, (96, 32))


def test_a_number_is_that_of_the_innermost_module_or_its_configuration() -> None:
    model: Any = nn.ModuleDict({"outer": nn.ModuleDict({"layer": nn.Linear(2, 2)})})
    model.count, model.outer.count = 3, 2
    assert stated(model, "outer.layer.weight", "count") == 2
    model.outer.count = True
    assert stated(model, "outer.layer.weight", "count") == 3
    assert stated(member("hf:gpt_neox"), "layers.0.attention.query_key_value.weight", "num_attention_heads") == 4


def test_layers_of_different_heads_are_refused() -> None:
    model: Any = member("hf:bloom")
    model.h[1].self_attention.num_heads, model.h[1].self_attention.head_dim = 2, 16
    with refused(PlanError, "bloom family", "different numbers of heads"):
        plan_for(model)


def test_a_falcon_of_a_contradictory_configuration_is_not_cut() -> None:
    """Without grouped keys the number in its configuration is not used, and as many keys as queries are there."""
    small = dict(MEMBERS["hf:falcon"][1].small)
    model = randomise(make_model("hf:falcon", **small, multi_query=False, num_kv_heads=2)).eval()
    (tensor,) = plan_for(model).resolve(model).tensors
    assert tensor.coordinates["role"][:3] == ("q", "k", "v")

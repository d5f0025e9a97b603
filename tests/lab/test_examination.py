"""`doctor`: what it finds on models with known faults, and that it leaves every model alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tensorfact import Group, Rule, TensorizationPlan, TensorTrain, adapt, doctor, plan_for
from tensorfact.errors import AdaptError, FormatError, NoMatchError
from tensorfact.lab import nano
from tensorfact.lab.models import model_shapes
from tests.helpers import Tiny, ids, qkv_plan, refused, state_bits


class Half(nn.Module):
    """Four equal layers, of which a forward pass uses two; it asks for values if it is told to."""

    def __init__(self, *, asks: bool = False) -> None:
        super().__init__()
        self.layers, self.asks = nn.ModuleList(nn.Linear(8, 8) for _ in range(4)), asks

    def forward(self, x: Tensor) -> Tensor:
        if self.asks and bool((x > 1e9).any()):
            return x
        for layer in self.layers[:2]:
            x = layer(x)
        return x


X = torch.randn(3, 8)
UNUSED = ("layers.2.weight", "layers.3.weight")


@pytest.mark.parametrize("asks", [False, True], ids=["on meta", "with values"])
def test_parameters_that_the_forward_pass_does_not_use_are_named(asks: bool) -> None:
    model = Half(asks=asks).train()
    state, drawn = state_bits(model), torch.get_rng_state()
    found = doctor(model, example_input=X)
    assert found.plan == "plan_by_shape"
    assert found.unused == UNUSED
    assert bool(found.costs) is not asks
    assert all(name in str(found) for name in UNUSED)
    assert ("does not train on the meta device (RuntimeError: Tensor.item()" in str(found)) is asks
    assert state_bits(model) == state
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_healthy_model_has_no_findings() -> None:
    found = doctor(nano())
    assert (found.plan, found.unused, found.remarks) == ("plan_for", (), ())
    assert found.share > 0.99
    assert found.head == ("head.weight", "head.bias")
    assert found.folded == plan_for(nano()).resolve(nano()).parameters
    model = nano()
    adapt(model)
    assert found.costs["adapter"].trained == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_the_format_and_the_plan_are_those_given() -> None:
    model = Tiny()
    found = doctor(model, qkv_plan(), TensorTrain(rank=2), example_input=ids())
    assert found.plan == "given"
    assert found.folded == qkv_plan().resolve(model).parameters
    with refused(FormatError, "nonsense"):
        doctor(nano(), format="nonsense")
    with refused(NoMatchError, "qkv"):
        doctor(nn.Linear(3, 3), qkv_plan())


@pytest.mark.parametrize(
    ("model", "remark"),
    [
        (nn.Linear(4, 4), "plan_by_shape: no two matrices"),
        (nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))), "Fix: doctor(model, example_input=x)"),
        (timm.create_model("densenet121"), "plan_for: DenseNet belongs to no known family"),
    ],
    ids=["one layer", "no example", "by shape"],
)
def test_what_stands_in_the_way_is_said(model: nn.Module, remark: str) -> None:
    found = doctor(model, costs=False)
    assert any(remark in each for each in found.remarks), found.remarks
    assert remark in str(found)
    assert (found.unused is not None) is isinstance(model, timm.models.DenseNet)


def test_a_model_that_does_not_run_is_reported_and_not_raised() -> None:
    found = doctor(Half(), example_input=torch.randn(3, 5))
    assert found.unused is None
    assert "not known" in str(found)
    assert any("does not run on the example input (RuntimeError" in each for each in found.remarks)
    meta = doctor(Half(asks=True).to("meta"), example_input=X)
    assert meta.unused is None
    assert "Tensor.item()" in meta.remarks[-1]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "name", ["hf:bert", "hf:t5", "hf:clip", "hf:resnet", "swinv2_cr_tiny_224", "torch:Transformer"]
)
def test_models_of_every_source_run_without_weights(name: str) -> None:
    found = doctor(model_shapes(name), costs=False)
    assert found.unused == (None if name.startswith("torch:") else ())


def test_an_adapted_model_is_refused() -> None:
    model: Any = nano()
    adapt(model)
    with refused(AdaptError):
        doctor(model)
    model.tensorfact.remove()
    assert doctor(copy.deepcopy(model), costs=False).unused == ()


@pytest.mark.parametrize("plan", ["p", 3, {}])
def test_what_is_no_plan_is_refused(plan: Any) -> None:
    with refused(AdaptError, "doctor: plan", "plan_for(model)"):
        doctor(nano(), plan)


@pytest.mark.parametrize("model", ["vit", None, torch.compile(nn.Linear(2, 2))])
def test_messages_name_doctor(model: Any) -> None:
    with refused(AdaptError, "doctor: "):
        doctor(model)


def test_a_head_in_the_plan_is_examined_too() -> None:
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(2)))
    vars(model)["pretrained_cfg"] = {"classifier": "1"}
    plan = TensorizationPlan((Group("all", "layer in out", (Rule("{layer}.weight", "out in"),)),))
    found = doctor(model, plan, "tt:rank=2", example_input=torch.randn(2, 6))
    assert found.folded == ("0.weight", "1.weight")
    assert found.unused == ()
    assert found.costs["adapter"].trained == TensorTrain(2).num_parameters(plan.resolve(model).tensors[0].modes)


def test_costs_are_counted_on_request() -> None:
    assert not doctor(nano(), costs=False).costs

"""Adapters of classifiers on backbones, and of backbones on classifiers: the error says what to pass."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
from torch import nn

from tensorfact import TensorTrain, adapt, load_adapter, plan_by_shape
from tensorfact.errors import NoMatchError, PlanError
from tensorfact.plan.nesting import nesting
from tests.helpers import layers, refused, untouched


def whole(*names: str) -> nn.Module:
    model: nn.Module = layers()
    for name in names:
        model = nn.Sequential(OrderedDict({name: model}))
    model.add_module("answer", nn.Sequential(nn.Linear(6, 2)))
    return model


@pytest.mark.parametrize("names", [("backbone",), ("inner", "outer")])
def test_an_adapter_of_a_classifier_on_its_backbone(names: tuple[str, ...], tmp_path: Path) -> None:
    model, bare = whole(*names), layers()
    adapt(model, plan_by_shape(model), TensorTrain(2), train_head=False).save(tmp_path / "a")
    prefix = ".".join(reversed(names))
    with untouched(bare), refused(NoMatchError, str(tmp_path / "a"), f"holds this one as {prefix!r}"):
        load_adapter(bare, tmp_path / "a")


@pytest.mark.parametrize("names", [("backbone",), ("inner", "outer")])
def test_an_adapter_of_a_backbone_on_a_classifier(names: tuple[str, ...], tmp_path: Path) -> None:
    model, bare = whole(*names), layers()
    adapt(bare, plan_by_shape(bare), TensorTrain(2), train_head=False).save(tmp_path / "a")
    path = ".".join(reversed(names))
    with untouched(model), refused(NoMatchError, f"pass model.{path}"):
        load_adapter(model, tmp_path / "a")


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Sequential(nn.Conv2d(1, 2, 3)), nn.Linear(6, 2)])
def test_nothing_is_said_where_nothing_fits(model: nn.Module) -> None:
    bare = layers()
    plan = plan_by_shape(bare)
    with pytest.raises(PlanError):
        plan.resolve(model)
    assert nesting(plan, model) == ""

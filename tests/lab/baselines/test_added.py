"""Modules added to a model: copies have their own, and a second adapter or baseline raises."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import timm
import torch
from torch import nn

from tensorfact import TensorTrain, adapt, compare, lab, plan_for
from tensorfact.errors import AdaptError
from tensorfact.lab import digits
from tensorfact.lab.baselines import (
    AdaptFormer,
    BitFit,
    BottleneckAdapters,
    FullFineTuning,
    LinearProbe,
    Method,
    PromptTuning,
)
from tensorfact.lab.models import model_shapes
from tests.helpers import bits, infer, refused, untouched
from tests.lab.baselines.models import METHODS, X, small, swin

ADDED = ["adapter", "adaptformer", "vpt-shallow", "vpt-deep", "noah-subnet"]


@pytest.mark.parametrize("name", ADDED)
def test_a_copy_has_modules_of_its_own(name: str) -> None:
    model = small()
    METHODS[name]().attach(model, seed=0)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in cast("nn.Module", model.baseline).parameters():
            parameter.add_(1.0)
    fresh = small()
    METHODS[name]().attach(fresh, seed=0)
    assert bits(infer(copied, X)) == bits(infer(fresh, X)) != bits(infer(model, X))


def test_one_seed_gives_the_same_modules() -> None:
    def drawn(seed: int) -> list[bytes]:
        return [bits(p) for p in cast("nn.Module", BottleneckAdapters().attach(small(), seed)).parameters()]

    assert drawn(0) == drawn(0) != drawn(1)


def test_what_cannot_take_a_baseline_is_refused() -> None:
    with refused(AdaptError, "no blocks"):
        BottleneckAdapters().attach(timm.create_model("resnet18", num_classes=3), 0)
    with refused(AdaptError, "prompts"):
        PromptTuning().attach(swin("swinv2_tiny_window8_256"), 0)
    refusals: dict[tuple[str, ...], Method] = {
        ("swinv2_tiny_window8_256", "swinv2_cr_tiny_224", "vit_relpos_small_patch16_rpn_224"): AdaptFormer(2),
        ("levit_128s",): BottleneckAdapters(2),
        ("vit_relpos_small_patch16_224", "beit_base_patch16_224", "eva02_tiny_patch14_224"): PromptTuning(2),
    }
    for names, method in refusals.items():
        for name in names:
            other = model_shapes(name)
            hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in other.modules()]
            with refused(AdaptError, "Vi" if method == PromptTuning(2) else "leave this baseline out"):
                method.attach(other, 0)
            assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in other.modules()] == hooks
    adapted = small()
    adapt(adapted, plan_for(adapted), TensorTrain(2))
    for method in (BottleneckAdapters(), BitFit()):
        with refused(AdaptError, "adapted already"):
            method.attach(adapted, 0)


@pytest.mark.parametrize("under", [False, True])
def test_nothing_goes_on_top_of_a_baseline(under: bool) -> None:
    model = small()
    BottleneckAdapters(2).attach(model, 0)
    whole = nn.Sequential(model) if under else model
    with untouched(whole):
        for method in (LinearProbe(), BitFit(), FullFineTuning(), AdaptFormer(2)):
            with refused(AdaptError, f"model{'.0' if under else ''}.baseline.remove()"):
                method.attach(whole, 0)
        with refused(AdaptError, "baseline"):
            adapt(whole, plan_for(whole), TensorTrain(2))
    nano = lab.nano()
    BottleneckAdapters(2).attach(nano, 0)
    data: Any = digits(nano, train=16, val=8)
    for formats, rows in (((), [LinearProbe()]), ((TensorTrain(2),), ())):
        with refused(AdaptError, "baseline"):
            compare(nano, data, formats, seeds=[0], epochs=1, baselines=cast("Any", rows))


def test_a_module_named_baseline_is_the_models_own() -> None:
    model = small()
    model.add_module("baseline", nn.Linear(2, 2))
    with untouched(model), refused(AdaptError, "already has an attribute"):
        BottleneckAdapters(2).attach(model, 0)
    LinearProbe().attach(model, 0)
    adapt(model, plan_for(model), TensorTrain(2))

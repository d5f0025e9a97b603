"""Where models come from: as recorded by `load_model`, and as timm and transformers note it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import transformers
from torch import nn

from tensorfact.lab import nano
from tensorfact.lab.models import load_model, with_head
from tensorfact.model.origin import ModelOrigin, origin_of, record_origin

SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 16, "depth": 1, "embed_dim": 48}


def test_the_bundled_model() -> None:
    found = origin_of(nano())
    assert (found.name, found.pretrained, found.options) == ("nano", True, {})
    assert (found.can_be_made, found.classes) == (True, 10)
    assert (found.repository, found.license) == ("", "apache-2.0")
    assert not origin_of(nano(pretrained=False)).can_be_made


def test_a_model_of_timm() -> None:
    found = origin_of(timm.create_model("vit_tiny_patch16_224", in_chans=1, num_classes=3, **SMALL))
    assert found.name == "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert (found.options, found.classes) == ({"in_chans": 1, "img_size": [32, 32]}, 3)
    assert (found.repository, found.license) == (f"timm/{found.name}", "apache-2.0")


def test_a_model_of_transformers() -> None:
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=3)
    model = transformers.ViTForImageClassification(config)
    found = origin_of(model)
    assert found == ModelOrigin("hf:vit", {"architecture": "ViTForImageClassification", "num_labels": 3})
    assert not found.can_be_made
    model.config._name_or_path = "google/vit"
    assert origin_of(model).can_be_made
    assert origin_of(model).name == "hf:google/vit"


@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 2), lambda: nn.Sequential()])
def test_a_model_of_one_s_own_has_no_name(make: Any) -> None:
    assert origin_of(make()) == ModelOrigin()
    assert not origin_of(make()).can_be_made


def test_what_load_model_recorded_wins_and_a_new_head_is_noted() -> None:
    model = load_model("vit_tiny_patch16_224(depth=1)", embed_dim=48, num_heads=2, seed=7)
    before = origin_of(model)
    assert before.name == "vit_tiny_patch16_224(depth=1)"
    assert (before.options, before.classes) == ({"embed_dim": 48, "num_heads": 2}, 1000)
    assert (before.pretrained, before.seed, before.checkpoint, before.can_be_made) == (False, 7, None, True)
    after = origin_of(copy.deepcopy(with_head(model, 3, seed=0)))
    assert (after.options, after.classes) == (before.options, 3)


def test_what_is_recorded_is_returned() -> None:
    model = nn.Linear(2, 2)
    record_origin(model, ModelOrigin("mine", {"a": 1}, seed=3))
    assert origin_of(model) == ModelOrigin("mine", {"a": 1}, seed=3)

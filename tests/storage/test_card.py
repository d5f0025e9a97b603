"""The model card: what a reader of the folder sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tensorfact import Tucker, adapt, plan_for
from tensorfact.lab.models import load_model
from tensorfact.model.origin import ModelOrigin
from tensorfact.storage.card import card, is_card, picture
from tests.helpers import TT, Tiny, qkv_plan, randomise


def test_a_card_names_tensors_base_model_and_license(tmp_path: Path) -> None:
    model = load_model("swin_tiny_patch4_window7_224(depths=(1,1,1,1),embed_dim=24,num_heads=(1,2,4,8))", num_classes=4)
    adapter = adapt(model, plan_for(model), Tucker(2))
    adapter.save_pretrained(tmp_path, classes=["cat", "a|b", "<b>", "`x`"], metrics={"val_accuracy": 0.93125})
    text = (tmp_path / "README.md").read_text()
    assert text.startswith('---\nlibrary_name: "tensorfact"\npipeline_tag: ')
    for tensor in adapter.resolved.tensors:
        assert f"| {tensor.name} " in text
        assert " x ".join(map(str, tensor.shape)) in text
    assert f"{adapter.num_parameters:,} trained numbers" in text
    assert "| val_accuracy | 0.9313 |" in text
    assert r"`cat`, `a\|b`, `&lt;b&gt;`, `'x'`" in text
    assert f"load({tmp_path.name!r})" in text
    assert "random weights of seed 0, created with" in text
    assert "mit" not in text
    assert "![The network of tensor" in text


@pytest.mark.parametrize(
    ("weights", "words", "stated"),
    [
        ({"pretrained": True}, "its pretrained weights", True),
        ({"checkpoint": "/a/b.safetensors"}, "the weights in `b.safetensors`", True),
        ({}, "weights of unknown origin", True),
        ({"seed": 3}, "random weights of seed 3", False),
    ],
)
def test_random_weights_have_no_license(weights: dict[str, Any], words: str, stated: bool) -> None:
    origin = ModelOrigin("vit_a.b", repository="timm/vit_a.b", license="mit", **weights)
    text = card(adapt(randomise(Tiny()), qkv_plan(), TT).state.description, origin, ["a"], {}, "mine")
    assert words in text
    assert ('base_model: "timm/vit_a.b"\nlicense: "mit"' in text) == ("License of the weights: mit." in text) == stated
    assert ("mit" in text) == stated


def test_a_long_card_is_shortened() -> None:
    description = adapt(randomise(Tiny()), qkv_plan(), TT).state.description
    text = card(description, ModelOrigin(), [f"class {at}" for at in range(40)], {}, "mine")
    assert "`class 29`, and 10 more" in text
    assert "not known by name" in text
    assert "load('mine', model=model)" in text


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("---\nlibrary_name: tensorfact\n---", True),
        ("---\ntags: [a]\nlibrary_name: 'tensorfact'  \n---\nwords", True),
        ('---\r\nlibrary_name: "tensorfact"\r\n---\r\n', True),
        ("---\nlibrary_name: peft\n---\nlibrary_name: tensorfact", False),
        ("---\nlibrary_name: tensorfact", False),
        ("library_name: tensorfact\n---", False),
        ("", False),
    ],
)
def test_a_card_is_known_by_its_header(text: str, own: bool) -> None:
    assert is_card(text) == own


def test_the_picture_is_that_of_the_first_tensor() -> None:
    description = adapt(randomise(Tiny()), qkv_plan(), TT).state.description
    assert next(iter(description.formats)) in picture(description)

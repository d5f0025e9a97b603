"""Models by name, with weights from a file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tensorfact import adapt
from tensorfact.errors import AdaptError, CheckpointError, DataError
from tensorfact.lab import load, nano
from tensorfact.lab.data.images import data_config
from tensorfact.lab.models import load_classifier, load_model, make_model, model_shapes, with_head
from tensorfact.plan.families.parts import IMAGE
from tests.helpers import refused


def test_a_checkpoint_with_another_head_is_loaded_but_for_the_head(tmp_path: Path) -> None:
    path = tmp_path / "five.safetensors"
    source = nano(num_classes=5)
    save_file(source.state_dict(), path)
    model = load_model("nano", checkpoint=path)
    own = model.state_dict()
    assert own["head.weight"].shape == (10, 96)
    assert torch.equal(own["blocks.0.attn.qkv.weight"], source.state_dict()["blocks.0.attn.qkv.weight"])


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="does not fit the model"):
        load_model("nano", checkpoint=path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        load_model("nano", checkpoint=path)


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(DataError, match="did you mean 'mixer_s32_224'"):
        load_model("mixer_s32_242")


def test_shapes_need_no_memory() -> None:
    assert all(p.is_meta for p in model_shapes("vit_giant_patch14_224").parameters())


def classifier(name: str, **sizes: Any) -> Any:
    return load_classifier(name, **sizes)


@pytest.mark.parametrize("name", ["hf:vit", "hf:deit", "hf:resnet"])
def test_a_classifier_of_transformers_gets_a_head_of_its_own(name: str) -> None:
    sizes: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1]} if name == "hf:resnet" else IMAGE
    model = classifier(name, **sizes)
    before = {n: p.clone() for n, p in model.named_parameters()}
    one, two = (with_head(copy.deepcopy(model), 5, seed) for seed in (1, 2))
    changed = {n for n, p in one.named_parameters() if p.shape != before[n].shape or not torch.equal(p, before[n])}
    assert changed
    assert all("classifier" in n for n in changed)
    assert one(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 5)
    again = with_head(copy.deepcopy(model), 5, 1)
    weight = next(n for n in changed if n.endswith("weight"))
    assert torch.equal(one.get_parameter(weight), again.get_parameter(weight))
    assert not torch.equal(one.get_parameter(weight), two.get_parameter(weight))


def test_a_model_without_a_head_gets_none() -> None:
    for model in (make_model("hf:vit", num_hidden_layers=1), make_model("hf:bert", num_hidden_layers=1)):
        with refused(AdaptError, "no reset_classifier()", "AutoModelForImageClassification"):
            with_head(model, 3, 0)
    with pytest.raises(DataError, match="AutoModelForImageClassification"):
        load_classifier("hf:bert")
    assert type(load_classifier("nano")) is type(nano())


def test_images_have_the_size_that_transformers_configuration_states() -> None:
    assert data_config(classifier("hf:vit", **IMAGE))["input_size"] == (3, 32, 32)
    assert data_config(classifier("hf:vit", **IMAGE, num_channels=1))["input_size"] == (1, 32, 32)


def test_the_folder_of_a_classifier_of_transformers_makes_it_again(tmp_path: Path) -> None:
    model = with_head(classifier("hf:vit", **IMAGE), 3, 1)
    adapt(model, seed=0).save_pretrained(tmp_path)
    image = torch.ones(1, 3, 32, 32)
    made: Any = load(tmp_path).model
    assert torch.equal(made(image).logits, model(image).logits)


def test_a_model_that_cannot_be_made_says_what_is_usual_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with refused(DataError, "cannot make 'test_vit': got TypeError", "Usual cause: a wrong option.", "its options"):
        make_model("test_vit", no_such=1)
    with refused(DataError, "'test_vit' with pretrained weights", "no network, no such weights", "checkpoint=FILE"):
        make_model("test_vit", pretrained=True)
    with refused(DataError, "cannot make 'hf:no/such'", "no network, or no such model"):
        make_model("hf:no/such")
    with refused(DataError, "torch:Linear has no pretrained weights", "leave out pretrained=True"):
        make_model("torch:Linear", pretrained=True)

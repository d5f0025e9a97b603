"""`load`: what a folder is written from, a fresh process makes again."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from tensorfact import TensorTrain, adapt, load, load_adapter, plan_by_shape
from tensorfact.adapters import Adapter
from tensorfact.errors import CheckpointError, DataError, DeviceError, FingerprintError, NoMatchError, SizeError
from tensorfact.lab import nano, predict
from tensorfact.lab.data.images import data_config, transform_of
from tensorfact.lab.models import load_model, with_head
from tests.helpers import difference, draw, infer, refused, untouched

TINY = "vit_tiny_patch16_224(depth=1,embed_dim=48,num_heads=2,img_size=32,patch_size=16)"


def test_a_model_with_random_weights_is_made_again_from_its_seed(tmp_path: Path) -> None:
    model = with_head(load_model(TINY, seed=5), 3, seed=1)
    draw(adapt(model, seed=0))
    adapter: Any = model.tensorfact
    adapter.save_pretrained(
        tmp_path, classes=["cat", "dog", "owl"], transform=data_config(model, imagenet_statistics=True)
    )
    found = load(tmp_path)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(infer(found.model, images), infer(model, images))
    assert found.classes == ("cat", "dog", "owl")
    picture = Image.effect_noise((50, 40), 60).convert("RGB")
    assert found.transform is not None
    assert torch.equal(found.transform(picture), transform_of(model, imagenet_statistics=True)(picture))


def test_the_bundled_model_gets_the_transform_of_the_model(tmp_path: Path) -> None:
    model: Any = nano()
    draw(adapt(model, seed=0))
    model.tensorfact.save_pretrained(tmp_path)
    found, transform, classes = load(tmp_path, device="cpu")
    images = torch.randn(2, 1, 28, 28)
    assert difference(infer(found, images), infer(model, images)) == 0
    picture = Image.effect_noise((50, 40), 60).convert("RGB")
    assert transform is not None
    assert torch.equal(transform(picture), transform_of(model)(picture))
    assert classes == ()


def test_weights_of_a_file_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(
        timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=48, num_heads=2).state_dict(), tmp_path / "w"
    )
    name = "vit_tiny_patch16_224(depth=1,embed_dim=48,num_heads=2)"
    monkeypatch.chdir(tmp_path)
    model = load_model(name, checkpoint="w")
    adapt(model, seed=0).save_pretrained(tmp_path / "adapter")
    assert "`w`" in (tmp_path / "adapter" / "README.md").read_text()
    monkeypatch.chdir(tmp_path / "adapter")
    assert isinstance(load(tmp_path / "adapter").model.tensorfact, Adapter)
    (tmp_path / "w").rename(tmp_path / "moved")
    with refused(CheckpointError, f"expected the file {tmp_path / 'w'}", "pass checkpoint=FILE"):
        load(tmp_path / "adapter")
    found = load(tmp_path / "adapter", checkpoint=tmp_path / "moved")
    assert isinstance(found.model.tensorfact, Adapter)


@pytest.mark.parametrize("processed", [True, False])
def test_a_model_of_transformers_is_made_by_transformers(processed: bool, tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, num_labels=3
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "base")
    if processed:
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "base")
    base: Any = transformers.ViTForImageClassification
    model = base.from_pretrained(tmp_path / "base").eval()
    draw(adapt(model, plan_by_shape(model), TensorTrain(2), seed=0))
    model.tensorfact.save_pretrained(tmp_path / "adapter", classes=["a", "b", "c"])
    found = load(tmp_path / "adapter")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found.model(images).logits, model(images).logits)
    assert (found.transform is not None) == processed
    if processed:
        [each] = predict(found, [Image.new("RGB", (50, 40))], top=3)
        assert sorted(each.classes) == ["a", "b", "c"]


@pytest.mark.parametrize("own", [True, False])
def test_a_model_of_one_s_own_is_passed(own: bool, tmp_path: Path) -> None:
    model: Any = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3))) if own else nano(pretrained=False)
    draw(adapt(model, plan_by_shape(model), TensorTrain(2), seed=0))
    model.tensorfact.save_pretrained(tmp_path)
    assert "model=model" in (tmp_path / "README.md").read_text()
    with refused(DataError, str(tmp_path), "model=model"):
        load(tmp_path)
    state = model.tensorfact.state
    model.tensorfact.remove()
    found: Any = load(tmp_path, model=model).model
    assert found is model
    assert model.tensorfact.num_parameters == state.num_parameters


def test_other_weights_are_refused(tmp_path: Path) -> None:
    model = load_model(TINY, seed=5)
    adapt(model, seed=0).save_pretrained(tmp_path)
    about = tmp_path / "adapter.json"
    stored = json.loads(about.read_text())
    about.write_text(json.dumps(stored | {"base_model": stored["base_model"] | {"seed": 6}}))
    with refused(FingerprintError, "another base model"):
        load(tmp_path)
    assert isinstance(load(tmp_path, check_base=False).model.tensorfact, Adapter)


@pytest.mark.parametrize(
    "options", [{}, {"global_pool": "max"}, {"act_layer": nn.SiLU}, {"output_stride": 8}], ids=lambda o: "".join(o)
)
def test_options_that_are_not_recorded_are_noticed_by_the_outputs(options: dict[str, Any], tmp_path: Path) -> None:
    model: Any = timm.create_model("test_resnet", num_classes=3, **options)
    save_file(model.state_dict(), tmp_path / "base")
    draw(adapt(model, seed=0))
    model.train()
    model.tensorfact.save_pretrained(tmp_path / "adapter")
    assert model.training
    if options:
        with refused(FingerprintError, "test_resnet.r160_in1k as it was made again gives other outputs", "model=timm"):
            load(tmp_path / "adapter", checkpoint=tmp_path / "base")
    found: Any = load(tmp_path / "adapter", checkpoint=tmp_path / "base", check_base=not options)
    assert isinstance(found.model.tensorfact, Adapter)
    found = load(
        tmp_path / "adapter", model=timm.create_model("test_resnet", num_classes=3, **options), check_base=False
    )
    assert isinstance(found.model.tensorfact, Adapter)


def test_an_adapter_that_is_saved_again_keeps_what_it_was_loaded_with(tmp_path: Path) -> None:
    digits, given = [str(digit) for digit in range(10)], {"name": "digits"}
    model: Any = nano()
    transform = {**data_config(model), "crop_pct": 0.5}
    draw(adapt(model, seed=0))
    assert model.tensorfact.info is None
    model.tensorfact.save_pretrained(
        tmp_path / "a", classes=digits, transform=transform, metrics={"val_accuracy": 1}, data=given
    )
    first: Any = load(tmp_path / "a").model
    for each in (first, copy.deepcopy(first)):
        each.tensorfact.save_pretrained(tmp_path / "b")
        again: Any = load(tmp_path / "b")
        info = again.model.tensorfact.info
        assert (again.classes, info.data, info.metrics) == (tuple(digits), given, {})
        assert info.transform["crop_pct"] == 0.5
        first.tensorfact.save_pretrained(tmp_path / "b", classes=list("abcdefghij"), data={})
        assert load(tmp_path / "b").classes == tuple("abcdefghij")
    first.tensorfact.save_pretrained(tmp_path / "b", classes=())
    assert load(tmp_path / "b").classes == ()


def test_weights_that_cannot_be_downloaded_say_what_to_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm does not record that the weights of a model are random, not the pretrained ones."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    model: Any = timm.create_model("test_resnet", num_classes=3)
    adapt(model, seed=0).save_pretrained(tmp_path / "a")
    with refused(
        DataError,
        tmp_path / "a",
        "'test_resnet.r160_in1k' cannot be made with pretrained",
        "no network",
        "timm does not record",
        "tensorfact.load(folder, model=model)",
        "checkpoint=FILE",
    ):
        load(tmp_path / "a")
    about = tmp_path / "a" / "adapter.json"
    stored = json.loads(about.read_text())
    stored["base_model"] |= {"options": {"no_such": 1}, "seed": 0, "pretrained": False}
    about.write_text(json.dumps(stored))
    with refused(DataError, tmp_path / "a", "got ResNet.__init__() got an unexpected keyword", "model=model"):
        load(tmp_path / "a")


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    adapt(nano(), seed=0).save_pretrained(tmp_path)
    with refused(DeviceError, "device 'xpu'", "use 'cpu'"):
        load(tmp_path, device="xpu")


def test_an_adapter_of_another_model_names_both(tmp_path: Path) -> None:
    name = "test_vit(img_size=32,patch_size=8)"
    model = load_model(name)
    adapt(model, seed=0).save_pretrained(tmp_path / "tiny")
    words = repr(name), "does not fit this VisionTransformer", "axis 'out' has two sizes", "pass the model it was"
    for source in (tmp_path / "tiny", str(tmp_path / "tiny")):
        with untouched(other := nano()), refused(SizeError, tmp_path / "tiny", *words, "or call tensorfact.load("):
            load_adapter(other, source)
    with refused(SizeError, tmp_path / "tiny", *words):
        load(tmp_path / "tiny", model=nano())
    with pytest.raises(SizeError, match="of another model, and does not fit") as caught:
        load_adapter(nano(), tmp_path / "tiny" / "adapter.safetensors")
    assert isinstance(caught.value.__cause__, SizeError)
    with refused(NoMatchError, "the adapter is an adapter of another model", "does not fit this Sequential"):
        load_adapter(nn.Sequential(nn.Linear(2, 2)), model.tensorfact)  # type: ignore[arg-type]
    (tmp_path / "tiny" / "adapter.json").unlink()
    with refused(SizeError, "of another model"):
        load_adapter(nano(), tmp_path / "tiny")

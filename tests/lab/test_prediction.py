"""`predict`: probabilities of images, as the model gives them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from tensorfact import TensorTrain, adapt, plan_by_shape
from tensorfact.errors import DataError
from tensorfact.lab import Loaded, nano, predict
from tensorfact.lab.data.images import transform_of
from tensorfact.lab.prediction import probabilities
from tests.helpers import draw, refused, untouched


def made(classes: tuple[str, ...] = ()) -> Loaded:
    model = nano()
    draw(adapt(model, seed=0))
    return Loaded(model, transform_of(model), classes)


def images(count: int) -> list[Image.Image]:
    torch.manual_seed(0)
    return [Image.fromarray((255 * torch.rand(20, 30, 3)).byte().numpy()) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 3, 65])
def test_the_most_probable_classes_come_first(count: int, tmp_path: Path) -> None:
    loaded, shown = made(tuple("abcdefghij")), images(count)
    assert loaded.transform is not None
    whole = probabilities(loaded.model, torch.stack([loaded.transform(image) for image in shown]))
    with untouched(loaded.model):
        found = predict(loaded, shown, top=3)
    assert [each.image for each in found] == [str(at) for at in range(count)]
    for each, row in zip(found, whole, strict=True):
        values, indices = row.topk(3)
        assert each.classes == tuple("abcdefghij"[at] for at in indices.tolist())
        assert each.probabilities == pytest.approx(values.tolist(), abs=1e-6)
    shown[0].save(tmp_path / "a.png")
    [again] = predict(loaded, [tmp_path / "a.png"], top=99)
    assert (again.image, len(again.classes)) == (str(tmp_path / "a.png"), 10)
    assert sum(again.probabilities) == pytest.approx(1, abs=1e-6)


def test_classes_without_names_are_numbers_and_no_image_is_no_prediction() -> None:
    [found] = predict(made(), images(1))
    assert set(found.classes) <= set("0123456789")
    assert predict(made(), []) == ()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_mode_of_the_model_is_left_as_it_was(training: bool, dtype: torch.dtype) -> None:
    model = nano().to(dtype).train(training)
    shares = probabilities(model, torch.rand(2, 1, 28, 28))
    assert model.training == training
    assert shares.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(shares.sum(1), torch.ones(2).to(shares))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"top": 0}, "predict: top"),
    ({"images": "photo.png"}, "a list of images"),
    ({"images": Image.new("RGB", (2, 2))}, "a list of images"),
    ({"images": b"photo.png"}, "a list of images"),
    ({"images": io.StringIO("photo")}, "a list of images"),
    ({"images": 3}, "a list of images, got 3"),
    ({"images": [io.BytesIO()]}, "predict: image 0: expected a path, or an image of Pillow, got BytesIO"),
    (
        {"images": [*images(1), np.zeros((2, 2, 3))]},
        "predict: image 1: expected a path, or an image of Pillow, got nda",
    ),
    ({"images": torch.zeros(2, 1, 28, 28)}, "predict: image 0: expected a path, or an image of Pillow, got Tensor"),
    ({"loaded": "shapes"}, "what tensorfact.load returns, got 'shapes'. Fix: predict(tensorfact.load(folder), images)"),
    ({"loaded": nano()}, "what tensorfact.load returns, got VisionTransformer"),
    ({"images": [Path("nowhere.png")]}, "the image nowhere.png does not exist"),
    ({"images": [Path(__file__)]}, "test_prediction.py does not have the extension of an image"),
    ({"loaded": Loaded(nano(num_classes=0), transform_of(nano()), ())}, "VisionTransformer has no classifier"),
    ({"loaded": Loaded(nn.Linear(2, 2), None, ())}, "no preprocessing"),
    ({"loaded": made(("a", "b"))}, "10, as the model has"),
    ({"loaded": Loaded(nn.Identity(), transform_of(nano()), ())}, "logits (batch, class)"),
]


@pytest.mark.parametrize(("given", "words"), WRONG)
def test_what_cannot_be_predicted_is_refused(given: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"loaded": made(), "images": images(1), **given}
    with refused(DataError, words):
        predict(**arguments)


class Caching(nn.Module):
    """A classifier that keeps a table from its first forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(28, 3)
        self.cos: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        if self.cos is None:
            self.cos = torch.arange(28.0).cos()
        logits: Tensor = self.head(images.mean((1, 2)) * self.cos)
        return logits


def convit() -> nn.Module:
    options = {"img_size": 28, "patch_size": 14, "embed_dim": 16, "num_heads": 2, "depth": 2, "local_up_to_layer": 1}
    model: nn.Module = timm.create_model("convit_tiny", in_chans=1, num_classes=3, **options)
    return model


def adapted() -> nn.Module:
    model = nano()
    adapt(model, plan_by_shape(model), TensorTrain(1), check=False)
    return model


@pytest.mark.parametrize("make", [Caching, convit, adapted])
def test_a_model_trains_after_its_probabilities_were_asked_for(make: Callable[[], nn.Module]) -> None:
    model, images = make().train(), torch.rand(2, 1, 28, 28)
    shares = probabilities(model, images)
    assert torch.allclose(shares.sum(1), torch.ones(2))
    assert not shares.requires_grad
    assert model.training
    torch.autograd.backward(model(images).square().mean())
    assert any(parameter.grad is not None for parameter in model.parameters())

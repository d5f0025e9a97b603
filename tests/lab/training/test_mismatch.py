"""Inputs that a model does not take: the message names argument, dtype, shape and fix; other errors pass."""

from __future__ import annotations

from typing import Any

import datasets
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from tensorfact import TensorTrain, adapt, fit, plan_for
from tensorfact.errors import TrainingError
from tensorfact.lab import evaluate, nano
from tests.helpers import refused
from tests.lab.training.runs import plain

X, Y = torch.rand(4, 1, 28, 28), torch.arange(4)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    model = nano()
    adapt(model, plan_for(model, blocks="attention"), TensorTrain(2), check=False)
    return model


def both_refuse(model: nn.Module, data: Any, *words: str) -> None:
    with refused(TrainingError, "fit: train", *words):
        fit(model, data, None, epochs=1)
    with refused(TrainingError, "evaluate: data", *words):
        evaluate(model, data)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.complex64, torch.float16, torch.int64])
def test_images_of_another_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    words = (str(dtype), "torch.float32", "input.to(torch.float32)" + (" / 255" if dtype == torch.uint8 else ""))
    both_refuse(model, TensorDataset(X.to(dtype), Y), *words)
    both_refuse(model, DataLoader(TensorDataset(X.to(dtype), Y)), *words)


@pytest.mark.parametrize("shape", [(3, 28, 28), (4, 28, 28), (1, 64, 64), (28, 28), (1, 28, 32)])
def test_images_of_another_shape(model: nn.Module, shape: tuple[int, ...]) -> None:
    both_refuse(model, TensorDataset(torch.rand(4, *shape), Y), str(shape), "(1, 28, 28)", "in_chans=")


@pytest.mark.parametrize("options", [{"in_chans": 1}, {"in_chans": 4}, {"img_size": 64}])
def test_a_timm_model_of_other_images(options: dict[str, int]) -> None:
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 1, "num_classes": 4}
    other = timm.create_model("vit_tiny_patch16_224", **(small | options))
    shape = (options.get("in_chans", 3), options.get("img_size", 32), options.get("img_size", 32))
    with refused(TrainingError, str(shape), "(3, 32, 32)"):
        evaluate(other, TensorDataset(torch.rand(4, 3, 32, 32), Y))


def test_models_without_a_stated_size_are_asked_for_their_first_layer() -> None:
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    with refused(TrainingError, "(3, any, any)", "(1, 32, 32)"):
        evaluate(ViTForImageClassification(config), TensorDataset(torch.rand(4, 1, 32, 32), Y % 2))
    with refused(TrainingError, "(6)", "(5,)"):
        evaluate(plain(), TensorDataset(torch.rand(4, 5), Y % 3))
    with refused(TrainingError, "torch.float64"):
        evaluate(plain(), TensorDataset(torch.rand(4, 6).double(), Y % 3))


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([(x, y, 0) for x, y in zip(X, Y, strict=True)], "2 inputs"),
        ([(x, 0, 1, y) for x, y in zip(X, Y, strict=True)], "3 inputs"),
        ([{"image": x, "label": y} for x, y in zip(X, Y, strict=True)], "got image"),
        ([{"pixel_values": x, "mask": x, "labels": y} for x, y in zip(X, Y, strict=True)], "got pixel_values, mask"),
    ],
)
def test_samples_of_other_parts(model: nn.Module, samples: Any, words: str) -> None:
    both_refuse(model, samples, words, "(input, class index)")


@pytest.mark.parametrize("ids", [torch.tensor([[1, 2], [3, 9]]), torch.tensor([[1], [9]]).int(), torch.tensor([9, 0])])
def test_token_ids_are_not_taken_for_numbers(ids: Tensor) -> None:
    """Ids have any length and are no floating-point numbers; what is wrong here is 9."""
    model = nn.Sequential(nn.Embedding(9, 6), nn.Flatten(1), nn.LazyLinear(3))
    model(ids % 9)
    with pytest.raises(IndexError, match="out of range"):
        evaluate(model, TensorDataset(ids, torch.arange(2)))


def bert() -> Any:
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(**size, vocab_size=20))


class Inputs(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Columns(nn.Linear):
    """A model that takes its features one by one."""

    def forward(self, x: Any) -> Tensor:
        return super().forward(torch.stack(x, 1).float())


WORDS, NUMBERS = [[1, 2, 3], [4, 5, 6]] * 2, [[0.5, 1.0], [1.5, 2.0]] * 2


@pytest.mark.parametrize(
    ("model", "samples", "key"),
    [
        (bert(), datasets.Dataset.from_dict({"input_ids": WORDS, "labels": [0, 1, 0, 1]}), "input_ids"),
        (Inputs(2, 2), [{"x": row, "label": 1} for row in NUMBERS], "x"),
        (
            bert(),
            [({"input_ids": torch.tensor(row), "attention_mask": [1, 1, 0]}, 0) for row in WORDS],
            "attention_mask",
        ),
        (bert(), [{"pixels": torch.rand(3), "labels": row} for row in WORDS], "labels"),
        (Inputs(2, 2), [{"x": [row, row], "label": 1} for row in NUMBERS], "x"),
    ],
)
def test_lists_of_numbers_are_named_with_their_key(model: nn.Module, samples: Any, key: str) -> None:
    both_refuse(model, samples, f"{key!r} is a list", 'data.set_format("torch")')


def test_lists_of_numbers_in_another_format_and_for_models_that_take_them_pass() -> None:
    data = datasets.Dataset.from_dict({"input_ids": WORDS, "labels": [0, 1, 0, 1]}).with_format("torch")
    assert evaluate(bert(), data).accuracy <= 1
    assert evaluate(Columns(2, 2), [{"x": row, "label": 1} for row in NUMBERS]).accuracy <= 1  # type: ignore[arg-type]


class Failing(nn.Linear):
    def __init__(self, error: Exception) -> None:
        super().__init__(6, 3)
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), TypeError("no"), AttributeError("no"), KeyError("no"), torch.OutOfMemoryError("no")]
)
def test_an_error_of_the_model_s_own_passes(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        evaluate(Failing(error), TensorDataset(torch.rand(4, 6), Y % 3))
    assert caught.value is error

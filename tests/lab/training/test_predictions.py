"""Batches and outputs in the forms that data sets and models have; labels that are no classes are refused."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from tensorfact import MatrixBatch, TensorTrain, adapt, fit, plan_by_shape, plan_for
from tensorfact.errors import TrainingError
from tensorfact.lab import evaluate, nano
from tensorfact.lab.training.batches import BatchOrigin
from tensorfact.lab.training.predictions import predict
from tests.helpers import refused
from tests.lab.training.runs import network, run

CPU, ORIGIN = torch.device("cpu"), BatchOrigin("fit: train")
X, Y = torch.linspace(-1, 1, 8).reshape(4, 2), torch.tensor([0, 1, 2, 0])


class Output(NamedTuple):
    loss: None
    logits: Tensor


class Linear(nn.Linear):
    def __init__(self, form: str) -> None:
        super().__init__(2, 3)
        self.form = form

    def forward(self, x: Tensor, scale: Tensor | float = 1.0) -> Any:
        logits = super().forward(x * scale)
        forms = {"tensor": logits, "object": Output(None, logits), "dict": {"logits": logits}, "tuple": (logits, None)}
        return forms[self.form]


@pytest.mark.parametrize("form", ["tensor", "object", "dict", "tuple"])
@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [X, Y.int()],
        {"x": X, "labels": Y},
        {"x": X, "label": Y.to(torch.uint8)},
        ({"x": X}, Y),
        (X, torch.ones(4, 1), Y),
        {"x": X, "scale": torch.ones(4, 1), "labels": Y},
    ],
)
def test_batches_and_outputs_of_every_form(batch: Any, form: str) -> None:
    model = Linear(form)
    logits, labels, counted = predict(model, batch, CPU, ORIGIN)
    assert torch.equal(logits, nn.functional.linear(X, model.weight, model.bias))
    assert torch.equal(labels, Y)
    assert counted == 1


@pytest.mark.parametrize("batch", [X, (X,), {"x": X}, {"x": X, "labels": [0, 1, 2, 0]}, 3, None, "text"])
def test_a_batch_without_labels_is_refused(batch: Any) -> None:
    with refused(TrainingError, "'labels'"):
        predict(Linear("tensor"), batch, CPU, ORIGIN)


@pytest.mark.parametrize("output", [None, {"features": X}, [], "text"])
def test_an_output_without_logits_is_refused(output: Any) -> None:
    with refused(TrainingError, "logits (batch, class)"):
        predict(lambda x: output, (X, Y), CPU, ORIGIN)


@pytest.mark.parametrize(("labels", "wrong"), [([0, 1, 3, 0], "3"), ([1, 2, 3, 1], "3"), ([0, -1, 1, 0], "-1")])
def test_a_label_out_of_range_is_refused(labels: list[int], wrong: str) -> None:
    with refused(TrainingError, f"label {wrong} ", "0 to 2"):
        predict(Linear("tensor"), (X, torch.tensor(labels)), CPU, ORIGIN)


def test_samples_that_are_ignored_are_left_out_and_targets_of_other_losses_pass() -> None:
    model = Linear("tensor")
    logits, labels, counted = predict(model, (X, torch.tensor([0, -100, 1, 2])), CPU, ORIGIN)
    assert (labels.tolist(), counted) == ([0, 1, 2], 0.75)
    assert torch.equal(logits, model(X)[[0, 2, 3]])
    targets = torch.rand(4, 3)
    assert predict(model, (X, targets), CPU, ORIGIN)[1:] == (targets, 1)


ONE_HOT = nn.functional.one_hot(Y, 3)


@pytest.mark.parametrize(
    ("labels", "fix"),
    [
        (Y.float(), "labels.long()"),
        (Y.double(), "labels.long()"),
        (Y.to(torch.complex64), "labels.long()"),
        (Y > 0, "labels.long()"),
        (ONE_HOT, "argmax(-1)"),
        (ONE_HOT > 0, "argmax(-1)"),
        (Y[:, None], "squeeze(1)"),
    ],
)
def test_labels_of_another_type_or_shape_are_refused(labels: Tensor, fix: str) -> None:
    data = TensorDataset(X, labels)
    for wrong in (data, DataLoader(data, 2)):
        with refused(TrainingError, "fit: train: the labels", "integers of shape", str(labels.dtype), fix):
            fit(nn.Linear(2, 3), wrong, None, epochs=1)
        with refused(TrainingError, "evaluate: data: the", "argmax(-1)" if labels.ndim > 1 else fix):
            evaluate(nn.Linear(2, 3), wrong)


def test_probabilities_train_and_a_loss_of_one_s_own_decides_what_it_takes() -> None:
    fit(nn.Linear(2, 3), TensorDataset(X, ONE_HOT.float()), None, epochs=1)
    fit(
        nn.Linear(2, 3),
        TensorDataset(X, ONE_HOT > 0),
        None,
        epochs=1,
        loss=lambda a, b: (a - b.float()).square().mean(),
    )


@pytest.mark.parametrize("index", [0, 3, 6])
def test_the_sample_of_a_wrong_label_is_named(index: int) -> None:
    x, labels = torch.randn(8, 2), torch.zeros(8, dtype=torch.int64)
    labels[index] = 7
    data = TensorDataset(x, labels)
    with refused(TrainingError, f"fit: train, sample {index}: label 7 "):
        fit(nn.Linear(2, 3), data, None, epochs=1, batch_size=2)
    with refused(TrainingError, f"fit: val, sample {index}: label 7 "):
        fit(nn.Linear(2, 3), TensorDataset(x, labels * 0), data, epochs=1)
    with refused(TrainingError, f"evaluate: data, sample {index}: label 7 "):
        evaluate(nn.Linear(2, 3), data, batch_size=3)
    with refused(TrainingError, f"evaluate: data, sample {index % 2} of a batch: label 7 "):
        evaluate(nn.Linear(2, 3), DataLoader(data, 2))


class Dicts(Dataset[dict[str, Tensor]]):
    """Samples as a processor of transformers makes them."""

    def __init__(self, **columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "num_labels": 3}

WORDS = {"input_ids": torch.arange(40).reshape(8, 5) % 20, "attention_mask": torch.ones(8, 5, dtype=torch.int64)}
PIXELS = {"pixel_values": torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
OTHERS: dict[str, tuple[str, dict[str, Any], dict[str, Tensor]]] = {
    "DistilBertForSequenceClassification": (
        "DistilBertConfig", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "vocab_size": 20}, WORDS,
    ),
    "GPT2ForSequenceClassification": (
        "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 20, "pad_token_id": 0}, WORDS,
    ),
    "DeiTForImageClassification": ("DeiTConfig", {**SMALL, "image_size": 32, "patch_size": 8}, PIXELS),
    "SwinForImageClassification": (
        "SwinConfig", {"image_size": 32, "patch_size": 4, "embed_dim": 32, "depths": [2], "num_heads": [2]}, PIXELS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_fit_and_evaluate_take_other_models_of_transformers(name: str) -> None:
    config, options, inputs = OTHERS[name]
    model = getattr(transformers, name)(getattr(transformers, config)(**{**options, "num_labels": 3}))
    data = Dicts(**inputs, labels=torch.arange(8) % 3)
    adapt(model, plan_by_shape(model), MatrixBatch(2), seed=0)
    history = fit(model, data, data, epochs=1, lr=1e-3)
    assert evaluate(model, data)[1] == pytest.approx(history.epochs[0].val_loss)


def test_fit_and_evaluate_take_models_and_data_of_transformers() -> None:
    images = ViTForImageClassification(ViTConfig(**SMALL, image_size=32, patch_size=8))
    words = BertForSequenceClassification(BertConfig(**SMALL, vocab_size=20))
    labels = torch.arange(8) % 3
    pixels = torch.randn(8, 3, 32, 32)
    cases: list[tuple[nn.Module, Dataset[Any]]] = [
        (images, TensorDataset(pixels, labels)),
        (images, Dicts(pixel_values=pixels, labels=labels)),
        (words, Dicts(input_ids=torch.randint(20, (8, 5)), attention_mask=torch.ones(8, 5).long(), labels=labels)),
    ]
    for model, data in cases:
        adapter = adapt(model, plan_for(model), TensorTrain(2), seed=0)
        history = fit(model, data, data, epochs=1, lr=1e-3)
        accuracy, loss = evaluate(model, data)
        assert loss == pytest.approx(history.epochs[0].val_loss)
        assert 0 <= accuracy <= 1
        adapter.remove()


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (2, ["reset_classifier(3)"]),
        (255, ["reset_classifier(256)"]),
        (-1, ["labels + 1 and a model with 3 classes", "-100"]),
        (-(2**40), ["indices from 0", "-100"]),
    ],
)
def test_fit_refuses_labels_out_of_range(label: int, words: list[str]) -> None:
    model = nano(num_classes=2)
    adapt(model, plan_for(model), TensorTrain(2))
    data = TensorDataset(torch.randn(8, 1, 28, 28), torch.tensor([0, 1, 0, label, 1, 0, 1, 0]))
    with refused(TrainingError, f"label {label}", "0 to 1", *words):
        fit(model, data, data, epochs=1)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda logits, labels: None, ("one element", "NoneType")),
        (lambda logits, labels: 1.0, ("one element", "float")),
        (lambda logits, labels: logits, ("one element", "(16, 3)")),
        (nn.CrossEntropyLoss(reduction="none"), ("one element", "reduction='none'")),
        (nn.CrossEntropyLoss(weight=torch.ones(7)), ("the loss raised RuntimeError", "shape (16, 3)", "7")),
        (lambda logits, labels: logits[:, 9].mean(), ("the loss raised IndexError", "shape (16, 3)", "9")),
        (lambda logits, labels: logits.detach().mean(), ("no gradient", "detaches")),
    ],
)
def test_a_loss_maps_logits_and_labels_to_a_scalar_with_a_gradient(loss: Any, words: tuple[str, ...]) -> None:
    with refused(TrainingError, "fit: train", *words, "loss=torch.nn.functional.cross_entropy"):
        run(network(), loss=loss)


@pytest.mark.parametrize("train", [torch.no_grad, torch.inference_mode])
def test_a_model_that_does_not_use_what_trains_is_refused(train: Any) -> None:
    class Frozen(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            with train():
                return super().forward(input)

    with refused(TrainingError, "does not depend on a parameter that trains"):
        run(Frozen(6, 3))

"""Evaluation leaves the model unchanged and does not depend on the batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset
from transformers import LlamaConfig, LlamaForSequenceClassification

from tensorfact import fit
from tensorfact.errors import TrainingError
from tensorfact.lab import Evaluation, evaluate
from tests.helpers import refused, untouched
from tests.lab.training.runs import data, network


def test_evaluating_leaves_model_and_random_state_alone() -> None:
    model = network().train()
    cast("nn.BatchNorm1d", model[1]).eval()  # type: ignore[index]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with untouched(model):
        evaluate(model, data())
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_does_not_depend_on_the_batch_size() -> None:
    model = network()
    results = [evaluate(model, data(50), batch_size=size) for size in (1, 7, 50, 256)]
    assert all(result == pytest.approx(results[0], rel=1e-5) for result in results)


def test_evaluating_nothing_is_refused() -> None:
    with refused(TrainingError, "empty"):
        evaluate(network(), TensorDataset(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)))


def test_labels_are_class_indices() -> None:
    data = TensorDataset(torch.randn(4, 3), nn.functional.one_hot(torch.arange(4) % 2))
    with refused(TrainingError, "(batch,)"):
        evaluate(nn.Linear(3, 2), data, loss=lambda logits, labels: logits.mean())


def test_the_result_is_named_and_unpacks() -> None:
    result = evaluate(network(), data())
    accuracy, loss = result
    assert isinstance(result, Evaluation)
    assert (result.accuracy, result.loss) == (accuracy, loss) == (result[0], result[1])
    assert 0 <= accuracy <= 1 < 10 * loss


class Caching(nn.Linear):
    """A model that computes a table when it first sees inputs, or other inputs than before, and keeps it."""

    def __init__(self, *, buffer: bool) -> None:
        super().__init__(6, 3)
        self.cos: Tensor | None
        if buffer:
            self.register_buffer("cos", None, persistent=False)
        else:
            self.cos = None

    def forward(self, input: Tensor) -> Tensor:
        if self.cos is None:
            self.cos = torch.arange(6.0).cos()
        return super().forward(input * self.cos)


def convit() -> Any:
    options = {"img_size": 32, "embed_dim": 16, "num_heads": 2, "depth": 2, "local_up_to_layer": 1, "num_classes": 3}
    return timm.create_model("convit_tiny", **options)


def llama() -> Any:
    """Return a model whose rotary frequencies are a buffer that inputs longer than 8 tokens change."""
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = LlamaConfig(
        **size, vocab_size=20, pad_token_id=0, num_labels=3, max_position_embeddings=8, rope_parameters=rope
    )
    return LlamaForSequenceClassification(config)


def sentences(length: int) -> Any:
    return [{"input_ids": torch.arange(at + 1, at + 1 + length) % 20, "labels": at % 3} for at in range(6)]


Y = torch.arange(4) % 3
IMAGES = TensorDataset(torch.rand(4, 3, 32, 32), Y)


@pytest.mark.parametrize(
    ("make", "long", "short"),
    [
        (lambda: Caching(buffer=False), data(4), data(4)),
        (lambda: Caching(buffer=True), data(4), data(4)),
        (convit, IMAGES, IMAGES),
        (llama, sentences(12), sentences(6)),
    ],
)
def test_a_model_that_keeps_tensors_trains_after_it_was_evaluated(
    make: Callable[[], nn.Module], long: Dataset[Any], short: Dataset[Any]
) -> None:
    model = make()
    evaluate(model, long)
    fit(model, short, long, epochs=2)
    fit(model, long, short, epochs=1)
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    assert not any(tensor.is_inference() for tensor in (*kept, *model.buffers()))

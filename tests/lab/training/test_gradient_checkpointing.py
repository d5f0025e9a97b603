"""Gradient checkpointing changes no result, and the model's setting is restored."""

from __future__ import annotations

from typing import Any, cast

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tensorfact import Group, Rule, TensorizationPlan, TensorTrain, adapt, fit, plan_for
from tensorfact.errors import TrainingError
from tensorfact.lab import nano
from tests.helpers import difference, draw, refused, untouched
from tests.lab.training.runs import network, run


def image_model(name: str, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    if name == "nano":
        model = nano()
    else:
        sizes = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4, "patch_size": 2}
        model = timm.create_model(name, img_size=28, in_chans=1, num_classes=2, **sizes)
    draw(adapt(model, plan_for(model), TensorTrain(2), scale=1.0, seed=0, dropout=dropout))
    return model


class Sentences(nn.Module):
    """A small BERT with a linear head, whose words are adapted too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        config = transformers.BertConfig(vocab_size=12, hidden_size=16, max_position_embeddings=8, **sizes)
        self.encoder: Any = transformers.BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(16, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return cast("Tensor", self.head(self.encoder(ids).last_hidden_state.mean(1)))


def text_model() -> nn.Module:
    model = Sentences()
    words = Rule("encoder.embeddings.word_embeddings.weight", "in out")
    layers = Rule("encoder.encoder.layer.{layer}.intermediate.dense.weight", "out in")
    plan = TensorizationPlan((Group("words", "in out", (words,)), Group("mlp", "layer in out", (layers,))))
    draw(adapt(model, plan, TensorTrain(2), seed=0, train_head="head", dropout=0.2))
    return model


def switches(model: nn.Module) -> list[tuple[bool, bool, bool, int]]:
    """Return the mode, the checkpointing flags of timm and transformers, and the hooks of every module."""
    flags = ("grad_checkpointing", "gradient_checkpointing")
    return [(m.training, *(bool(getattr(m, f, False)) for f in flags), len(m._forward_hooks)) for m in model.modules()]  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["nano", "dropout", "swin_tiny_patch4_window7_224", "bert"])
def test_checkpointing_changes_no_number_and_is_switched_off_again(kind: str) -> None:
    found = []
    for checkpointing in (False, True):
        if kind == "bert":
            model = text_model()
            x: Tensor = torch.randint(12, (12, 5), generator=torch.Generator().manual_seed(0))
            samples = TensorDataset(x, x[:, 0] % 2)
        else:
            model = image_model("nano" if kind == "dropout" else kind, 0.3 if kind == "dropout" else 0.0)
            x = torch.randn(12, 1, 28, 28, generator=torch.Generator().manual_seed(0))
            samples = TensorDataset(x, (x.mean((1, 2, 3)) > 0).long())
        model(x[:1])  # the adapter's hook looks at one forward pass
        start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        calls: list[int] = []
        part = next(module for module in model.modules() if "GELU" in type(module).__name__)
        part.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        before = switches(model)
        fit(model, samples, None, epochs=2, batch_size=6, gradient_checkpointing=checkpointing, weight_decay=0.0)
        assert switches(model) == before
        assert all(not torch.equal(p, start[name]) for name, p in model.named_parameters() if name in start)
        found.append((len(calls), dict(model.named_parameters())))
    (once, expected), (twice, numbers) = found
    assert twice > once, "activations were computed again"
    assert all(difference(numbers[name], expected[name]) < 1e-6 for name in expected)


def test_a_model_without_a_switch_is_refused() -> None:
    model = network()
    with untouched(model), refused(TrainingError, "checkpointing"):
        run(model, gradient_checkpointing=True)


def test_a_switch_that_was_on_stays_on() -> None:
    model: Any = image_model("nano")
    model.set_grad_checkpointing(True)
    samples = TensorDataset(torch.randn(4, 1, 28, 28), torch.zeros(4, dtype=torch.int64))
    fit(model, samples, None, epochs=1, gradient_checkpointing=True)
    assert model.grad_checkpointing

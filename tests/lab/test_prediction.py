"""Predictions leave nothing in a model that keeps it from training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from tensorfact import TensorTrain, adapt, plan_by_shape
from tensorfact.lab import nano
from tensorfact.lab.prediction import probabilities


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

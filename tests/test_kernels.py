"""Kernels of a training step on a ViT of twelve blocks: on a GPU in eager mode, launches are time."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from tensorfact import CP, MatrixBatch, TensorTrain, Tucker, adapt, plan_for
from tensorfact.adapters.increments import Kind
from tensorfact.adapters.options import Route
from tensorfact.lab.measure import freeze_to_floor
from tests.kernels import Kernels

FLOOR = 280
"""Kernels of a step that trains the head alone, with gradients through every block."""


def vit() -> nn.Module:
    """ViT-B/16 on images of four patches: as many kernels as on larger ones."""
    model: nn.Module = timm.create_model("vit_base_patch16_224", num_classes=10, img_size=32)
    return model


def kernels(model: nn.Module) -> int:
    """Count the kernels of a forward and a backward pass."""
    x, y = torch.zeros(2, 3, 32, 32), torch.tensor([0, 1])
    train(model, x, y)
    for parameter in model.parameters():
        parameter.grad = None
    with Kernels() as counted:
        train(model, x, y)
    total: int = counted.total
    return total


def train(model: nn.Module, x: Tensor, y: Tensor) -> None:
    torch.autograd.backward(nn.functional.cross_entropy(model(x), y))


def test_the_floor_is_that_of_the_model() -> None:
    model = vit()
    freeze_to_floor(model, "blocks.0.attn.qkv.weight")
    assert kernels(model) <= FLOOR


MOST: dict[Route, tuple[int, ...]] = {"activation": (620, 620, 620, 590), "formed": (540, 540, 540, 600)}
"""Kernels of a training step by route, for each of `FORMATS`."""
FORMATS = (TensorTrain(16), Tucker(16), CP(16), MatrixBatch(16))


@pytest.mark.parametrize("route", MOST)
@pytest.mark.parametrize("at", range(len(FORMATS)))
def test_an_adapter_launches_few_kernels(at: int, route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kind, "at_once", lambda *_: True)  # as on a GPU
    model = vit()
    adapt(model, plan_for(model), FORMATS[at], route=route, check=False)
    assert kernels(model) <= MOST[route][at]

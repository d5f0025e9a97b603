"""A base model and its fine-tuned version."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tests.helpers import layers, randomise


def pair(count: int = 3, width: int = 6) -> tuple[nn.Sequential, nn.Sequential]:
    """Return a base model and a tuned one: every weight changed by a matrix of rank one, and the biases too."""
    base = randomise(layers(count, width))
    tuned = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(5)
    u, v = (torch.randn(width, generator=generator) for _ in range(2))
    with torch.no_grad():
        for at, layer in enumerate(tuned):
            layer.weight.add_(torch.outer(u, v), alpha=at + 1.0)  # type: ignore[operator]
        tuned[0].bias.add_(0.5)  # type: ignore[operator]
    return base, tuned


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}

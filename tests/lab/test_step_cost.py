"""The cost of a step: known answers for layers, and equal to what torch counts on values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tensorfact import adapt
from tensorfact.lab import nano
from tensorfact.lab.step_cost import step_cost
from tensorfact.model.example import ExampleInput

IMAGE = torch.randn(1, 4, 6, 6, device="meta")


def test_a_chain_of_linear_layers_counts_by_hand() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).to("meta")
    x = torch.randn(5, 8, device="meta")
    cost = step_cost(model, ExampleInput((x,)))
    layers = 2 * 5 * (8 * 16 + 16 * 4)
    assert cost.trained == 8 * 16 + 16 + 16 * 4 + 4
    assert cost.state == 3 * 4 * cost.trained
    assert cost.flops == 3 * layers - 2 * 5 * 8 * 16, "the input needs no gradient"
    assert cost.kept == 4 * 5 * (8 + 16), "the input, and what the activation returns, which both its users keep"
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("layer", "per_position", "positions"),
    [
        (nn.Conv2d(4, 8, 3, bias=False), 4 * 8 * 9, 4 * 4),
        (nn.Conv2d(4, 8, 3, groups=4, bias=False), 8 * 9, 4 * 4),
        (nn.ConvTranspose2d(4, 8, 2, stride=2, bias=False), 4 * 8 * 4, 6 * 6),
        (nn.ConvTranspose2d(4, 8, 2, stride=2, groups=2, bias=False), 4 * 4 * 4, 6 * 6),
    ],
    ids=["dense", "depthwise", "transposed", "grouped and transposed"],
)
@pytest.mark.parametrize("differentiated", [False, True])
def test_convolutions_count_their_groups(
    layer: nn.Module, per_position: int, positions: int, differentiated: bool
) -> None:
    x = IMAGE.clone().requires_grad_(differentiated)
    cost = step_cost(layer.to("meta"), ExampleInput((x,)))
    assert cost.flops == 2 * per_position * positions * (3 if differentiated else 2)


def test_an_adapter_trains_little_and_keeps_the_gradients_of_activations() -> None:
    x = ExampleInput((torch.randn(2, 1, 28, 28, device="meta"),))
    full = nano(pretrained=False).to("meta")
    adapted = nano(pretrained=False).to("meta")
    adapter = adapt(adapted, train_head=False)
    whole, part = step_cost(full.requires_grad_(), x), step_cost(adapted, x)
    assert part.trained == adapter.num_parameters
    assert whole.trained == sum(p.numel() for p in full.parameters())
    assert 0.6 * whole.flops < part.flops < 0.8 * whole.flops, "two of the three products of a step, and a little"

"""Which parameters stack: shapes that repeat, and the reason why others do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tensorfact.model.stacking import STACK, VECTOR, obstacles, repeated, stack_shape, stackable, weights


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"classifier": "head"}
        self.one, self.two, self.wide = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 3)
        self.conv, self.point = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.embed = nn.Embedding(5, 3)
        self.pos_embed = nn.Parameter(torch.zeros(4, 3))
        self.gru = nn.GRU(3, 3)
        self.experts = nn.Parameter(torch.zeros(4, 6, 3))
        self.head = nn.Linear(3, 2)


def test_a_shape_is_outputs_inputs_and_the_positions_of_a_kernel() -> None:
    model = Parts()
    found = stackable(model)
    assert found["one.weight"] == found["two.weight"] == found["point.weight"] == (4, 3)
    assert found["conv.weight"] == (4, 3, 3, 3)
    assert stack_shape(model, "embed.weight", model.embed.weight) == (3, 5)
    assert set(repeated(found)) == {"one.weight", "two.weight", "point.weight"}


def test_stacks_of_matrices_are_weights_that_cannot_be_stacked_by_shape() -> None:
    model = Parts()
    assert weights(model) == {**stackable(model), "experts": (4, 6, 3)}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("one.bias", VECTOR),
        ("head.weight", "the head"),
        ("embed.weight", "an embedding"),
        ("pos_embed", "a table"),
        ("depthwise.weight", "depthwise"),
        ("gru.weight_ih_l0", "recurrent"),
        ("experts", STACK),
        ("one.weight", ""),
    ],
)
def test_the_reason_not_to_stack_a_parameter(name: str, reason: str) -> None:
    found = obstacles(Parts())[name]
    assert reason in found
    assert bool(found) == bool(reason)

"""Which dimension of a parameter is the outputs'."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tensorfact.model.sides import is_conv1d, is_depthwise, is_stack, is_transposed


@pytest.mark.parametrize(
    ("module", "transposed"),
    [
        (nn.Linear(3, 2), False),
        (nn.Conv2d(3, 2, 1), False),
        (nn.ConvTranspose2d(3, 2, 1), True),
        (nn.Embedding(5, 2), True),
        (Conv1D(2, 3), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_outputs_come_first_but_for_modules_that_store_them_second(module: nn.Module, transposed: bool) -> None:
    assert is_transposed(module, "weight") is transposed
    assert not is_transposed(module, "bias")


def test_a_conv1d_is_known_by_its_class_or_a_base_class() -> None:
    assert is_conv1d(Conv1D(2, 3))
    assert is_conv1d(type("Own", (Conv1D,), {})(2, 3))
    assert not is_conv1d(nn.Conv1d(2, 3, 1))


def test_a_depthwise_kernel_has_one_input_channel_a_group() -> None:
    depthwise, grouped, plain = nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3)
    assert is_depthwise(depthwise, depthwise.weight)
    assert not is_depthwise(grouped, grouped.weight)
    assert not is_depthwise(plain, plain.weight)


@pytest.mark.parametrize(
    ("module", "shape", "stack"),
    [
        (nn.Conv1d(3, 2, 3), (2, 3, 3), False),
        (nn.ConvTranspose2d(3, 2, 3), (3, 2, 3, 3), False),
        (type("Own", (nn.Conv2d,), {})(3, 2, 3), (2, 3, 3, 3), False),
        (nn.Linear(3, 2), (2, 3), False),
        (nn.Bilinear(3, 4, 2), (2, 3, 4), True),
        (nn.Module(), (4, 6, 3), True),
        (nn.Module(), (1, 4, 6, 3), True),
    ],
)
def test_a_stack_has_three_dimensions_or_more_and_is_no_kernel(
    module: nn.Module, shape: tuple[int, ...], stack: bool
) -> None:
    assert is_stack(module, torch.empty(shape)) is stack

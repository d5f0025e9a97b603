"""Parameters without ordinary values: quantised and offloaded ones are told from all others."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor, nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from tensorfact.model.values import dense_values, is_offloaded, is_quantized, shapes_only

KINDS = [torch.zeros(2, 3), nn.Parameter(torch.zeros(2, 3)), torch.zeros(3, 2, device="meta").t()]


def quantized() -> Tensor:
    torch.manual_seed(0)
    layer = nn.Linear(32, 16)
    quantize_(nn.Sequential(layer), Int8WeightOnlyConfig())
    return layer.weight


@pytest.mark.parametrize("tensor", KINDS)
def test_ordinary_tensors_are_left_as_they_are(tensor: Tensor) -> None:
    assert not is_quantized(tensor)
    assert dense_values(tensor) is tensor
    outline = shapes_only(tensor)
    assert (outline.shape, outline.stride(), outline.dtype) == (tensor.shape, tensor.stride(), tensor.dtype)
    assert outline.is_meta


def test_a_quantised_tensor_has_dense_values_of_its_shape_and_dtype() -> None:
    tensor = quantized()
    assert is_quantized(tensor)
    values, outline = dense_values(tensor), shapes_only(tensor)
    assert type(values) is type(outline) is Tensor
    assert values.shape == outline.shape == tensor.shape
    assert values.dtype == outline.dtype == tensor.dtype
    x = torch.randn(4, 32)
    torch.testing.assert_close(x @ values.t(), nn.functional.linear(x, tensor), atol=1e-5, rtol=1e-5)


def test_what_accelerate_offloads_is_told_from_what_has_no_values() -> None:
    with torch.device("meta"):
        empty = nn.Linear(2, 2)
    assert not is_offloaded(empty, empty.weight)
    layer = nn.Linear(2, 2)
    assert not is_offloaded(layer, layer.weight)
    cpu_offload(layer, execution_device=torch.device("cpu"))
    assert is_offloaded(layer, layer.weight)

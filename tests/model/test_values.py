"""Parameters without ordinary values: quantised and offloaded ones are told from all others."""

from __future__ import annotations

import warnings

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor, nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from tensorfact.model.values import (
    dense_values,
    equal_values,
    is_offloaded,
    is_quantized,
    is_wide_float,
    shapes_only,
    strided_parts,
)

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


SPARSE = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]])


def layouts(dense: Tensor) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remark that CSR is a beta
        return [dense, dense.to_sparse(), dense.to_sparse_csr(), dense.to_sparse_csc(), dense.to(torch.cfloat).conj()]


@pytest.mark.parametrize("at", range(5))
def test_values_of_every_layout_are_compared(at: int) -> None:
    one, same, other = (layouts(value)[at] for value in (SPARSE, SPARSE.clone(), SPARSE * 2))
    assert equal_values(one, same)
    assert not equal_values(one, other)
    assert not equal_values(one, layouts(SPARSE)[(at + 1) % 4])
    assert all(part.layout == torch.strided and not part.is_conj() for part in strided_parts(one))


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.float16, True),
        (torch.float64, True),
        (torch.float8_e4m3fn, False),
        (torch.int64, False),
        (torch.bool, False),
    ],
)
def test_numbers_of_8_bits_are_not_computed_with(dtype: torch.dtype, wide: bool) -> None:
    assert is_wide_float(torch.zeros(2).to(dtype)) == wide

"""Products of layers and their gradients: those of autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tensorfact.adapters.increments.convolution import Convolution
from tensorfact.adapters.increments.products import LinearProduct, Product


@pytest.mark.parametrize(
    ("product", "weight", "x"),
    [
        (LinearProduct(), torch.randn(5, 4), torch.randn(2, 3, 4)),
        (LinearProduct(transposed=True), torch.randn(4, 5), torch.randn(2, 3, 4)),
        (Convolution.of(nn.Conv2d(4, 5, 3, 2, 1)), torch.randn(5, 4, 3, 3), torch.randn(2, 4, 7, 6)),
        (Convolution.of(nn.Conv1d(4, 5, 2)), torch.randn(5, 4, 2), torch.randn(4, 7)),
    ],
)
@pytest.mark.parametrize("biased", [True, False])
def test_gradients_are_those_of_autograd(product: Product, weight: torch.Tensor, x: torch.Tensor, biased: bool) -> None:
    bias = torch.randn(5, requires_grad=True) if biased else None
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = product(x, weight, bias)
    g = torch.randn_like(y)
    to_x, to_weight, *to_bias = torch.autograd.grad(y, [x, weight, *([bias] if bias is not None else [])], g)
    rows = product.rows(g)
    assert torch.allclose(product.to_input(rows, weight.detach(), x.shape).reshape(x.shape), to_x, atol=1e-5)
    assert torch.allclose(product.to_weight(rows, product.rows(x.detach())), to_weight, atol=1e-5)
    assert all(torch.allclose(product.to_bias(rows), each, atol=1e-5) for each in to_bias)
    assert len(product.rows(y)) == product.rows(y).shape[0]
    assert product(torch.zeros(product.shape(50, weight)), weight, bias).numel() >= 5 * 50


def test_tokens_are_the_positions_of_the_output() -> None:
    assert LinearProduct().tokens(torch.zeros(2, 3, 4)) == 6
    assert LinearProduct().tokens(torch.zeros(2, 3, 0)) == 0
    found = Convolution.of(nn.Conv2d(4, 5, 2, 2))
    assert found is not None
    assert found.tokens(torch.zeros(2, 4, 8, 6)) == 2 * 4 * 3

"""The sum of increments: each with its scale, in every way that a layer asks for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tensorfact import CP, TensorTrain, adapt
from tensorfact.adapters.increments import SummedIncrement
from tensorfact.adapters.increments.products import LinearProduct
from tensorfact.adapters.slots import summed
from tests.helpers import difference, draw, layers, layers_plan, randomise

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sum_is_the_sum_of_the_dense_increments(dtype: torch.dtype) -> None:
    model = randomise(layers())
    weight, terms, total = model.get_parameter("0.weight").detach().clone(), [], torch.zeros(6, 6)
    for format, scale in ((TensorTrain(2), 0.5), (CP(3), -2.0)):
        adapter = adapt(model, layers_plan(), format, scale=scale, check=False)
        draw(adapter)
        total = total + adapter.delta("0.weight").detach()
        terms.append((adapter._links.slots["0.weight"].increment, scale))
        adapter.remove()
    found = SummedIncrement(terms)
    assert difference(found.dense(), total) < 1e-5
    expected = (weight.to(dtype).float() + 3.0 * total).to(dtype)
    tolerance = 4 * torch.finfo(dtype).eps
    assert difference(found.added_to(weight.to(dtype), 3.0), expected) < tolerance
    parameter = nn.Parameter(weight.to(dtype, copy=True))
    found.add_into(parameter, 3.0)
    assert difference(parameter, expected) < tolerance
    y = found.linear(LinearProduct(), X.to(dtype), weight.to(dtype), None, 3.0)
    assert difference(y, nn.functional.linear(X.to(dtype), expected)) < tolerance


def test_a_single_slot_is_its_own_sum() -> None:
    adapter = adapt(layers(), layers_plan(), TensorTrain(2), check=False)
    [slot, _] = adapter._links.slots.values()
    assert summed([slot]) is slot

"""Links from factors to parameters: shared parameters under all their names, and the choice of the route."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tensorfact import CP, Adapter, TensorTrain, adapt
from tests.helpers import Tied, difference, draw, infer, layers, layers_plan, one_rule, randomise


@pytest.mark.parametrize("name", ["embed.weight", "head.weight"])
def test_a_tied_parameter_is_adapted_under_all_its_names(name: str) -> None:
    model = Tied(head_first=False)
    randomise(model).double()
    x = torch.tensor([[0, 3, 6]])
    adapter = adapt(model, one_rule(name), TensorTrain(2), train_head=False)
    draw(adapter)
    assert torch.equal(model.embed.weight, model.head.weight)
    adapted = infer(model, x)
    with adapter.disabled():
        assert difference(infer(model, x), adapted) > 1e-3
    adapter.merge()
    assert difference(infer(model, x), adapted) < 1e-10


def routes(adapter: Adapter, tokens: int = 1024) -> set[str]:
    return {choice.route for choice in adapter.explain(tokens).choices}


def test_the_route_is_chosen_by_cost() -> None:
    """Applying few components is cheaper than the gradient of a formed matrix; applying very many is not."""
    adapter = adapt(layers(2, 256), layers_plan(), TensorTrain(2))
    assert [routes(adapter, tokens) for tokens in (64, 4096)] == [{"activation"}, {"formed"}]
    assert routes(adapt(layers(64, 8), layers_plan(), CP(64))) == {"weight"}
    convolution = nn.Sequential(nn.Conv2d(4, 4, 1))
    assert routes(adapt(convolution, layers_plan("layer in out", "out in 1 1"), TensorTrain(1))) == {"weight"}

"""A sample of a model's outputs: stable for one model, apart for two, and silent where it cannot tell."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tensorfact.lab import nano
from tensorfact.model.outputs import OutputSample, apart, sample_output, tolerance_of
from tests.helpers import state_bits


def test_a_model_agrees_with_its_sample_and_is_left_as_it_was() -> None:
    model = timm.create_model("test_resnet").train()
    state, drawn = state_bits(model), torch.get_rng_state()
    sample = sample_output(model)
    assert sample is not None
    assert len(sample.values) == 16
    assert model.training
    assert state_bits(model) == state, "batch normalisation counted nothing"
    assert torch.equal(torch.get_rng_state(), drawn)
    assert sample.difference(model) == 0
    other = timm.create_model("test_resnet")
    assert sample.difference(other) > sample.tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_precision_is_no_other_model(dtype: torch.dtype) -> None:
    model = nano()
    sample = sample_output(model)
    halved = sample_output(nano().to(dtype))
    assert sample is not None
    assert halved is not None
    assert halved.tolerance == pytest.approx(max(tolerance_of(nano().to(dtype)), 1e-2))
    assert halved.difference(model) <= halved.tolerance


class Drawing(nn.Module):
    """A model of the attributes of timm's whose outputs are random, or of another kind."""

    def __init__(self, output: Any = None) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (1, 4, 4)}
        self.output, self.weight = output, nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Any:
        return torch.randn(5) + x.mean() if self.output is None else self.output


def test_a_model_whose_outputs_vary_differs_from_none() -> None:
    sample = sample_output(Drawing())
    assert sample is not None
    assert len(sample.values) == 5
    assert sample.difference(Drawing()) == 0


@pytest.mark.parametrize("output", ["text", torch.full((3,), math.nan), torch.arange(3), (), [{}]], ids=str)
def test_other_outputs_have_no_sample(output: Any) -> None:
    assert sample_output(Drawing(output)) is None
    assert OutputSample((1.0,), 0.01).difference(Drawing(output)) == 0


def test_models_without_a_known_input_or_on_several_processes_have_no_sample() -> None:
    assert sample_output(nn.Linear(3, 3)) is None
    assert sample_output(nano().to("meta")) is None
    model = nano()
    next(model.parameters()).device_mesh = "a mesh"  # type: ignore[attr-defined]  # as the parameters of FSDP2 have it
    assert sample_output(model) is None


@pytest.mark.parametrize("wrong", [((), 0.1), ((math.inf,), 0.1), ((1.0,), math.nan), (("x",), 0.1), (None, 0.1)])
def test_a_sample_holds_finite_numbers(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        OutputSample(*wrong)


def test_vectors_of_other_lengths_are_infinitely_apart() -> None:
    one, two = torch.tensor([1.0, -4.0, math.inf]), torch.tensor([1.0, -3.0, 0.0])
    assert apart(two, one) == 0.25
    assert apart(one[:2], one) == math.inf
    assert apart(torch.tensor([math.nan, -4.0]), one[:2]) == math.inf

"""Small members of the known families and example inputs for them, and models without a number."""

from __future__ import annotations

import copy
import functools
from typing import Any, cast

import timm
import torch
from torch import nn

from tensorfact.lab.models import make_model, model_shapes
from tensorfact.model.example import ExampleInput as Input
from tensorfact.model.example import known_example
from tensorfact.plan import ResolvedPlan, TensorizationPlan, plan_for
from tensorfact.plan.families import FAMILIES
from tests.helpers import randomise


@functools.cache
def outline(name: str, **options: Any) -> nn.Module:
    """Return a timm model of shapes alone."""
    with torch.device("meta"):
        return cast("nn.Module", timm.create_model(name, **options))


@functools.cache
def published(name: str) -> nn.Module:
    """Return a published member of shapes alone, which tests only read."""
    return model_shapes(name)


@functools.cache
def folded(name: str) -> tuple[TensorizationPlan, ResolvedPlan]:
    """Return the plan of a published member, also resolved on it."""
    plan = plan_for(published(name))
    return plan, plan.resolve(published(name))


MEMBERS = {example.model: (family.name, example) for family in FAMILIES.values() for example in family.examples}


@functools.cache
def original(name: str) -> nn.Module:
    """Return one randomised small member; tests take copies."""
    _, example = MEMBERS[name]
    model = make_model(name, **example.small)
    return randomise(model).eval().requires_grad_(False)


def member(name: str) -> nn.Module:
    return copy.deepcopy(original(name))


def example_of(model: nn.Module) -> Input:
    """Return what the library would run the model on; torch's own transformer does not say."""
    if isinstance(model, nn.Transformer):
        generator = torch.Generator().manual_seed(0)
        return Input(tuple(torch.randn(3, 2, model.d_model, generator=generator) for _ in range(2)))
    found = known_example(model)
    assert found is not None, "a member says what its input is"
    return found

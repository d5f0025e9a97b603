"""Example inputs: what models of transformers and torch say that they take."""

from __future__ import annotations

import pytest

from tensorfact import TensorTrain, adapt, plan_for
from tensorfact.adapters.liveness import Watch
from tensorfact.lab.models import make_model
from tensorfact.model.example import known_example
from tests.helpers import randomise, state_bits


@pytest.mark.parametrize("name", ["hf:vit", "hf:bert", "hf:t5", "hf:gpt2", "hf:clip", "torch:Transformer"])
def test_models_say_what_they_take(name: str) -> None:
    from tensorfact.plan.families import FAMILIES

    small = next(e.small for f in FAMILIES.values() for e in f.examples if e.model == name)
    model = randomise(make_model(name, **small))
    example = known_example(model)
    if name.startswith("torch:"):
        assert example is None
        return
    assert example is not None
    adapter = adapt(model, plan_for(model), TensorTrain(2), seed=0)
    assert not any(isinstance(hook, Watch) for hook in model._forward_hooks.values()), "the example ran at once"
    state = state_bits(model)
    assert not adapter.check().apart
    assert state_bits(model) == state

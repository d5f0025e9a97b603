"""Example inputs: what models of transformers and torch say that they take."""

from __future__ import annotations

import pytest
from torch import Tensor

from tensorfact import TensorTrain, adapt, plan_for
from tensorfact.adapters.liveness import Watch
from tensorfact.lab.models import make_model, model_shapes
from tensorfact.model.example import known_example, timm_shape
from tests.helpers import randomise, state_bits


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "name",
    [
        *("hf:vit", "hf:bert", "hf:t5", "hf:gpt2", "hf:clip", "torch:Transformer"),
        *("hf:resnet", "hf:detr", "hf:whisper", "hf:wav2vec2"),
    ],
)
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


@pytest.mark.parametrize(
    ("name", "word", "shape"),
    [
        ("hf:vit", "pixel_values", (1, 3, 32, 32)),
        ("hf:resnet", "pixel_values", (1, 3, 64, 64)),
        ("hf:whisper", "input_features", (1, 8, 16)),
        ("hf:wav2vec2", "input_values", (1, 4000)),
    ],
)
def test_images_and_sound_have_the_sizes_of_the_configuration(name: str, word: str, shape: tuple[int, ...]) -> None:
    from tensorfact.plan.families import FAMILIES

    small = next(e.small for f in FAMILIES.values() for e in f.examples if e.model == name)
    example = known_example(make_model(name, **small))
    assert example is not None
    value = example.keywords[word]
    assert isinstance(value, Tensor)
    assert value.shape == shape


def test_a_linear_patch_embedding_takes_images() -> None:
    model = model_shapes("naflexvit_base_patch16_gap")
    assert timm_shape(model) == (3, 384, 384)
    example = known_example(model)
    assert example is not None
    example.run(model)

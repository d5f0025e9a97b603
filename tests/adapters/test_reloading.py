"""Values of a saved adapter, taken in place: the same outputs, the same parameter objects, nothing else changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tensorfact import TensorTrain, adapt
from tensorfact.errors import AdaptError, CheckpointError, FingerprintError
from tests.helpers import TT, Tiny, draw, ids, infer, qkv_plan, randomise, refused, state_bits


def trained(model: nn.Module, seed: int) -> None:
    """Overwrite all that trains."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


@given(st.sampled_from([(), "norm", ("norm", "bias"), "embed"]), st.booleans(), st.booleans())
def test_the_values_come_back_into_the_same_parameters(train: str, subtract_start: bool, head: bool) -> None:
    model = randomise(Tiny())
    adapter = adapt(model, qkv_plan(), TT, seed=0, train=train, subtract_start=subtract_start, train_head=head)
    trained(model, 1)
    state, before, output = adapter.state, state_bits(model), infer(model, ids())
    own = {name: id(parameter) for name, parameter in model.named_parameters()}
    trained(model, 2)
    adapter.load(state)
    assert state_bits(model) == before
    assert torch.equal(infer(model, ids()), output)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == own


def test_what_the_file_does_not_store_is_that_of_the_base_model(tmp_path: Path) -> None:
    model = randomise(Tiny())
    adapter = adapt(model, qkv_plan(), TT, seed=0)
    before = state_bits(model)
    adapter.save(tmp_path / "fresh")
    model.blocks[0].norm.requires_grad_(True)
    trained(model, 1)
    adapter.load(tmp_path / "fresh")
    assert state_bits(model) == before
    adapter.remove()
    assert state_bits(model) == state_bits(randomise(Tiny()))


def test_the_file_of_another_adapter_or_base_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model = randomise(Tiny())
    adapter = adapt(model, qkv_plan(), TT, scale=1.0, seed=0)
    draw(adapter)
    before = state_bits(model)
    others = {
        "formats": adapt(randomise(Tiny()), qkv_plan(), TensorTrain(1)),
        "scales": adapt(randomise(Tiny()), qkv_plan(), TT, scale=2.0),
        "plan": adapt(randomise(Tiny()), qkv_plan("q", "k", None), TT),
        "subtract_start": adapt(randomise(Tiny()), qkv_plan(), TT, scale=1.0, subtract_start=True),
    }
    for part, other in others.items():
        path = tmp_path / part
        other.save(path)
        with refused(CheckpointError, part, path, "load_adapter"):
            adapter.load(path)
    base = adapt(randomise(Tiny(), 1), qkv_plan(), TT, scale=1.0, seed=0)
    with refused(FingerprintError, "another base model"):
        adapter.load(base)
    assert state_bits(model) == before
    adapter.load(base, check_base=False)
    assert state_bits(model) != before


def test_a_head_of_another_size_is_refused() -> None:
    model, other = randomise(Tiny()), randomise(Tiny())
    other.head = nn.Linear(4, 5)
    adapter = adapt(model, qkv_plan(), TT)
    with refused(CheckpointError, "head.weight", "(5, 4)", "num_classes"):
        adapter.load(adapt(other, qkv_plan(), TT))


@pytest.mark.parametrize("state", ["merged", "disabled", "removed"])
def test_an_adapter_in_another_state_is_refused(state: str) -> None:
    adapter = adapt(Tiny(), qkv_plan(), TT)
    saved = adapter.state
    if state == "disabled":
        with adapter.disabled(), refused(AdaptError, state):
            adapter.load(saved)
    else:
        adapter.merge() if state == "merged" else adapter.remove()
        with refused(AdaptError, state):
            adapter.load(saved)

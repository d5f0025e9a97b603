"""Factors: the values of their cores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tensorfact import TensorTrain
from tensorfact.adapters.factors import Factors
from tests.helpers import as_modes, difference
from tests.strategies import formats, modes


@given(data=st.data())
def test_the_zero_core_is_zero_and_no_other_is(data: st.DataObject) -> None:
    drawn = data.draw(modes())
    network = data.draw(formats(drawn)).network(drawn)
    factors = Factors(network, drawn, generator=torch.Generator().manual_seed(0))
    for core in network.cores:
        tensor = factors.named_cores()[core.name]
        assert (tensor == 0).all() if core.start == "zero" else (tensor != 0).all()
    assert factors.num_parameters == network.num_parameters == sum(p.numel() for p in factors.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_cores_have_the_dtype_asked_for_and_the_same_numbers_in_each(dtype: torch.dtype) -> None:
    drawn = as_modes(("layer", 3, "stack"), ("in", 4, "in"), ("out", 5, "out"))
    network = TensorTrain(2).network(drawn)
    wide, cast_ = (
        Factors(network, drawn, dtype=d, generator=torch.Generator().manual_seed(1)) for d in (torch.float32, dtype)
    )
    for name, core in cast_.named_cores().items():
        assert core.dtype == dtype
        assert torch.equal(core, wide.named_cores()[name].to(dtype))


def test_assigned_cores_are_copied() -> None:
    drawn = as_modes(("in", 4, "in"), ("out", 5, "out"))
    factors = Factors(TensorTrain(2).network(drawn), drawn)
    cores = {name: torch.randn(core.shape) for name, core in factors.named_cores().items()}
    parameters = list(factors.parameters())
    factors.assign(cores)
    assert difference(factors.dense(), cores["U"] @ cores["V"]) < 1e-6
    assert [id(p) for p in factors.parameters()] == [id(p) for p in parameters]

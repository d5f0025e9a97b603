"""Factors: the values of their cores, which are arrays for other libraries too."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import opt_einsum
import pytest
import tensorly
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tensorfact import CP, Format, TensorTrain, Tucker, adapt
from tensorfact.adapters.factors import Factors
from tensorfact.formats.common import tensorly_on_torch
from tests.helpers import as_modes, difference, draw, layers, layers_plan
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


# ------------------------------------------------------------------------------------------------------ other libraries

Cores = dict[str, Tensor]

REBUILT: dict[Format, tuple[str, Callable[[Cores], Tensor]]] = {
    TensorTrain(2): (
        "ia,alb,bo->lio",
        lambda c: tensorly.tt_to_tensor([c["U"][None], c["S1"], c["V"][..., None]]).transpose(0, 1),
    ),
    Tucker(2): ("ix,ly,yxz,oz->lio", lambda c: tensorly.tucker_to_tensor((c["C"], [c["U2"], c["U1"], c["U3"]]))),
    CP(2): ("ir,lr,or->lio", lambda c: tensorly.cp_to_tensor((None, [c["U2"], c["U1"], c["U3"]]))),
}
"""The einsum of a format for (layer in out), written out, and its tensor rebuilt by tensorly."""


@pytest.mark.parametrize("format", REBUILT, ids=str)
def test_cores_are_arrays_for_other_libraries(format: Format) -> None:
    adapter = adapt(layers(3, 6), layers_plan(), format, check=False, seed=0)
    draw(adapter)
    factors = cast("Factors", adapter.factors["stack"])
    named = {name.removeprefix("stack."): core for name, core in adapter.named_cores().items()}
    cores = [named[core.name] for core in factors.network.cores]
    dense, (equation, rebuilt) = factors.dense(), REBUILT[format]
    assert difference(torch.einsum(equation, *cores), dense) < 1e-6
    assert difference(opt_einsum.contract(equation, *cores), dense) < 1e-6
    assert difference(opt_einsum.contract_expression(equation, *[core.shape for core in cores])(*cores), dense) < 1e-6
    arrays = [core.detach().numpy() for core in cores]
    for array, core in zip(arrays, cores, strict=True):
        assert type(array) is np.ndarray
        assert np.array_equal(np.asarray(core.detach()), array)
    assert difference(torch.from_numpy(np.einsum(equation, *arrays)), dense) < 1e-6
    assert difference(torch.from_numpy(opt_einsum.contract(equation, *arrays)), dense) < 1e-6
    with tensorly_on_torch():
        assert difference(rebuilt(named), dense) < 1e-6
        assert difference(tensorly.norm(cores[0]), cores[0].norm()) < 1e-6
    opt_einsum.contract(equation, *cores).square().sum().backward()
    assert all(core.grad is not None and bool(core.grad.any()) for core in cores)

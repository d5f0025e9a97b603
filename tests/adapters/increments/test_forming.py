"""What is formed for all parameters of a tensor is what is formed for each alone, and reads each core once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tensorfact import CP, Format, MatrixBatch, TensorTrain, Tucker, adapt
from tensorfact.adapters.increments.forming import Forming, formed_matrices, formed_parts
from tensorfact.adapters.increments.increment import Increment
from tensorfact.adapters.increments.passes import Passes
from tensorfact.lab import nano
from tests.kernels import Kernels

FORMATS = [TensorTrain(3), Tucker(3), CP(3), MatrixBatch(2)]


def of(format: Format) -> tuple[list[Increment], list[Tensor]]:
    """Return the increments of the bundled model, and their cores with random values."""
    adapter = adapt(nano(), format=format)
    increments = [slot.increment for slot in adapter._slots.values()]
    cores = increments[0].factors.tensors()
    generator = torch.Generator().manual_seed(0)
    return increments, [torch.randn(core.shape, generator=generator, dtype=torch.float64) for core in cores]  # type: ignore[return-value]


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("scale", [1.0, -0.3])
def test_all_parameters_together_are_each_alone(format: Format, scale: float) -> None:
    increments, cores = of(format)
    kinds = list({id(each.kind): each.kind for each in increments}.values())
    assert len(kinds) == 4
    formed = formed_matrices(kinds, Passes())

    class Model(nn.Module):
        def forward(self, each: Increment) -> list[Tensor]:
            return formed(*each.place, cores, torch.float64, scale)

    model = Model()
    formed.passes.watch(model)
    for each in increments:
        alone, plain = formed(*each.place, cores, torch.float64, scale), formed(*each.place, cores, torch.float64)
        torch.testing.assert_close(model(each), alone)
        torch.testing.assert_close(alone, [plain[0], plain[1] * scale])


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_the_parts_of_a_kind_are_its_slices(format: Format) -> None:
    increments, cores = of(format)
    for each in increments[:4]:
        parts = formed_parts(each.kind, Passes())(0, each.at, cores, torch.float64)
        torch.testing.assert_close(parts, each.kind.own(each.at, cores))


def test_a_core_is_read_once_for_all_kinds() -> None:
    increments, cores = of(TensorTrain(3))
    kinds = list({id(each.kind): each.kind for each in increments}.values())
    forming = Forming(kinds, [kind.halves.pieces for kind in kinds if kind.halves])
    with torch.no_grad():
        forming.together(cores)
        with Kernels() as kernels:
            results = forming.together(cores, 2.0)
    assert kernels.calls["index_select"] == 1
    assert kernels.calls["mul"] == 1  # the scale, on the core that all up matrices have
    assert len(results) == 2 * len(kinds)
    assert not {result.data_ptr() for result in results} & {core.data_ptr() for core in cores}

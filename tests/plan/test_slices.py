"""How a parameter lies in a tensor: what was split is joined again."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from torch import nn

from tensorfact import CP, Group, Rule, TensorizationPlan
from tensorfact.network import plan_contraction
from tensorfact.plan.slices import own_parts, picks_of, restricted
from tests.helpers import bits, difference
from tests.strategies import Case, cases


@given(cases())
def test_joining_what_was_split_gives_the_parameter_back_but_for_frozen_slots(case: Case) -> None:
    parameters = dict(case.build().named_parameters())
    for tensor in case.resolve().tensors:
        for view in tensor.views:
            parameter = parameters[view.parameter].detach()
            joined = view.join(view.split(parameter))
            kept = view.join(torch.ones_like(view.split(parameter))).bool()
            assert copy.deepcopy(view) is view, "views are large and immutable"
            assert joined.shape == parameter.shape
            assert bits(joined[kept]) == bits(parameter[kept])
            assert not joined[~kept].any()
            frozen = view.frozen_part(parameter)
            assert torch.equal(joined + frozen, parameter)
            assert not frozen.expand_as(parameter)[kept].any()


@pytest.mark.parametrize(
    ("layer", "pattern", "outputs", "inputs"),
    [
        (nn.Linear(4, 6), "(role out) in", ("role", "out"), ("in",)),
        (nn.Conv2d(4, 6, 3), "out in kh kw", ("out",), ("in", "kh", "kw")),
        (nn.ConvTranspose2d(4, 6, 3), "in out kh kw", ("out",), ("in", "kh", "kw")),
    ],
)
def test_the_outputs_are_the_dimension_that_the_layer_says(
    layer: nn.Module, pattern: str, outputs: tuple[str, ...], inputs: tuple[str, ...]
) -> None:
    rule = Rule("{layer}.weight", pattern, **({"role": ["a", "b"]} if "role" in pattern else {}))
    axes = " ".join(dict.fromkeys([*rule.captured, *(axis for dim in rule.dims for axis in dim)]))
    (tensor,) = TensorizationPlan((Group("g", axes, (rule,)),)).resolve(nn.ModuleList([layer])).tensors
    assert (tensor.views[0].outputs, tensor.views[0].inputs) == (outputs, inputs)


def test_a_vector_has_outputs_only() -> None:
    rule = Rule("{layer}.bias", "out")
    (tensor,) = TensorizationPlan((Group("g", "layer out", (rule,)),)).resolve(nn.ModuleList([nn.Linear(4, 6)])).tensors
    assert (tensor.views[0].outputs, tensor.views[0].inputs) == (("out",), ())


@given(cases())
def test_a_slice_of_the_cores_is_the_slice_of_the_tensor(case: Case) -> None:
    for tensor in case.resolve().tensors:
        network = CP(2).fitted(tensor.modes).network(tensor.modes)
        generator = torch.Generator().manual_seed(0)
        cores = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in network.shapes().values()]
        whole = tensor.scatter(plan_contraction(network)(cores))
        for view in tensor.views:
            own = restricted(network, tensor.modes, view)
            picks = picks_of(network, tensor.modes, view)
            shortened = {network.cores[at].legs[dim] for at, pick in enumerate(picks) for dim, _ in pick}
            full = {m.name for m, index in zip(tensor.modes, view.index, strict=True) if index == slice(0, m.size, 1)}
            assert not shortened & full, "a core that is used whole is not sliced"
            parts = own_parts(cores, picks, own.shapes().values())
            assert difference(view.join(plan_contraction(own)(parts)), whole[view.parameter]) < 1e-12

"""How a parameter lies in a tensor: what was split is joined again."""

from __future__ import annotations

import torch
from hypothesis import given

from tests.helpers import bits
from tests.strategies import Case, cases


@given(cases())
def test_joining_what_was_split_gives_the_parameter_back_but_for_frozen_slots(case: Case) -> None:
    parameters = dict(case.build().named_parameters())
    for tensor in case.resolve().tensors:
        for view in tensor.views:
            parameter = parameters[view.parameter].detach()
            joined = view.join(view.split(parameter))
            kept = view.join(torch.ones_like(view.split(parameter))).bool()
            assert joined.shape == parameter.shape
            assert bits(joined[kept]) == bits(parameter[kept])
            assert not joined[~kept].any()

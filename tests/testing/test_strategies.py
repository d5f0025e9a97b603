"""Strategies draw formats that suit the modes, and plans that resolve."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tensorfact import TensorTrain
from tensorfact.formats import Gates, KhatriRao, Nested, Started
from tensorfact.testing import formats as any_formats
from tensorfact.testing import modes as any_modes
from tensorfact.testing import plain_kinds
from tensorfact.testing import plans as any_plans
from tests import faulty


@given(st.data())
def test_a_drawn_format_has_a_network_on_its_modes(data: st.DataObject) -> None:
    drawn = data.draw(any_modes())
    format = data.draw(any_formats(drawn))
    assert format.network(drawn).output == tuple(mode.name for mode in drawn)
    assert type(format) in plain_kinds()


@given(st.data())
def test_a_drawn_plan_resolves(data: st.DataObject) -> None:
    model = faulty.Layers(3)
    resolved = data.draw(any_plans(model)).resolve(model)
    assert len(resolved.parameters) == 3


def test_every_plain_kind_is_one_of_the_registered() -> None:
    assert {TensorTrain, Gates, KhatriRao} <= set(plain_kinds())
    assert not {Nested, Started} & set(plain_kinds())

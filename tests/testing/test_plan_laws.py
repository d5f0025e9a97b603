"""Laws of plans: correct plans pass, and for every law there is a fault that breaks it and no other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorfact import CP, TensorTrain, Tucker, plan_by_shape, plan_for
from tensorfact.formats import Started
from tensorfact.lab import nano
from tensorfact.testing import check_plan
from tensorfact.testing import plans as any_plans
from tests import faulty
from tests.helpers import snapshot, state_bits
from tests.testing.outcomes import X, failing


@pytest.mark.parametrize("format", [None, CP(2), {"encoder": Tucker(2)}], ids=str)
def test_a_plan_on_the_bundled_model_keeps_the_laws(format: Any) -> None:
    model = nano()
    before = snapshot(model)
    assert failing(check_plan(plan_for(model), model, format=format)) == {}
    assert snapshot(model) == before


@pytest.mark.parametrize("start", ["normal:0.1", "constant:0.5", "xavier"])
def test_a_format_that_starts_elsewhere_changes_the_model_unless_its_start_is_subtracted(start: str) -> None:
    plan, model = faulty.case()
    format = Started(TensorTrain(2), {"V": start})
    broken = failing(check_plan(plan, model, X, format))
    assert list(broken) == ["fresh adapter changes nothing"]
    assert "check_plan(..., subtract_start=True)" in broken["fresh adapter changes nothing"]
    assert failing(check_plan(plan, model, X, format, subtract_start=True)) == {}


def test_a_plan_by_shape_keeps_the_laws() -> None:
    model = faulty.Layers(3)
    assert failing(check_plan(plan_by_shape(model), model, X)) == {}


@settings(max_examples=5)
@given(st.data())
def test_any_plan_over_a_model_keeps_the_laws(data: st.DataObject) -> None:
    model = faulty.Layers(3)
    assert failing(check_plan(data.draw(any_plans(model)), model, X)) == {}


@pytest.mark.parametrize("law", faulty.PLANS)
def test_a_faulty_plan_or_model_breaks_its_law_and_no_other(law: str) -> None:
    plan, model = faulty.PLANS[law]
    before = state_bits(model)
    broken = failing(check_plan(plan, model, X))
    assert list(broken) == [law], broken
    assert state_bits(model) == before


test_plan_laws = check_plan(*faulty.case(), X).as_test()

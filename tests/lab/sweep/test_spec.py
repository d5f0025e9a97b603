"""Specs of runs read back equal, and equal specs have equal ids."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.errors import SweepError
from tensorfact.lab.sweep import RunSpec, Settings
from tests.helpers import refused

specs = st.builds(
    RunSpec,
    st.text(min_size=1),
    st.text(min_size=1),
    st.text(min_size=1),
    st.none() | st.floats(0.001, 1000),
    st.integers(0, 2**31),
    st.sampled_from(["select", "final", "released"]),
    st.builds(Settings, st.integers(1, 999), lr=st.floats(1e-6, 1)),
    st.booleans(),
    st.none() | st.text(),
)


@given(specs, specs)
def test_a_spec_reads_back_equal_and_has_an_id_of_its_own(one: RunSpec, other: RunSpec) -> None:
    assert RunSpec.from_json(one.to_json()) == one
    assert (one.id == other.id) == (one == other)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": "nano"}', '{"modell": 1}'])
def test_what_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(SweepError):
        RunSpec.from_json(text)


def test_an_unknown_setting_or_stage_is_refused() -> None:
    data = RunSpec("nano", "digits", "bitfit", None, 0, "final").to_dict()
    with refused(SweepError, "Settings"):
        RunSpec.from_dict({**data, "settings": {"epoch": 3}})
    with refused(SweepError, "stage"):
        RunSpec.from_dict({**data, "stage": "test"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("seed", "a"), ("seed", None), ("seed", 2**70), ("scale", 0), ("scale", float("nan")), ("scale", -1.0)),
        *(("model", None), ("task", 3), ("method", []), ("checkpoint", 5), ("settings", None), ("pretrained", "x")),
    ],
)
def test_a_spec_of_wrong_types_is_refused(field: str, value: Any) -> None:
    with pytest.raises(SweepError):
        RunSpec.from_dict({**RunSpec("nano", "digits", "tt:rank=1", 1.0, 0, "final").to_dict(), field: value})


def test_equal_specs_have_equal_ids() -> None:
    one, other = (
        RunSpec("nano", "digits", "tt:rank=1", s, 0, "final", Settings(lr=n)) for s, n in ((1, 1), (1.0, 1.0))
    )
    assert one == other
    assert one.id == other.id

"""Axis strings: what they mean, what is refused, and that they read back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.errors import PlanError
from tensorfact.plan.notation import format_axes, mode_name, parse_axes
from tests.helpers import refused

NAMES = ("layer", "role", "in", "out", "a1", "B_2")


@st.composite
def dimensions(draw: st.DrawFn) -> tuple[tuple[str, ...], ...]:
    """Draw dimensions of no, one or several axes, each axis once."""
    names = list(draw(st.permutations(NAMES)))
    counts = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    return tuple(tuple(names.pop() for _ in range(min(count, len(names)))) for count in counts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("in", (("in",),)),
        ("(role out) in", (("role", "out"), ("in",))),
        ("out in 1 1", (("out",), ("in",), (), ())),
        ("(out 1) in", (("out",), ("in",))),
        ("(out)(in)", (("out",), ("in",))),
        ("  out\tin ", (("out",), ("in",))),
        ("()", ((),)),
    ],
)
def test_what_an_axis_string_means(text: str, expected: tuple[tuple[str, ...], ...]) -> None:
    assert parse_axes(text, "a rule") == expected


@given(dimensions())
def test_a_written_axis_string_reads_back(dims: tuple[tuple[str, ...], ...]) -> None:
    assert parse_axes(format_axes(dims), "a rule") == dims


@pytest.mark.parametrize(
    "text",
    ["", "   ", "(in", "in)", "((a b) c)", "in, out", "2 in", "in 11", "in -> out", "_in", "...", "a (b", ")", None, 3],
)
def test_a_malformed_axis_string_is_refused(text: Any) -> None:
    with refused(PlanError, "the owner", repr(text)):
        parse_axes(text, "the owner")


@pytest.mark.parametrize("text", ["in in", "(in out) in", "(a a)"])
def test_an_axis_has_one_place(text: str) -> None:
    with refused(PlanError, "the owner", repr(text), "twice"):
        parse_axes(text, "the owner")


@given(st.text(max_size=12) | st.text("() 1ab_-", max_size=12))
def test_any_string_is_read_or_refused(text: str) -> None:
    try:
        dims = parse_axes(text, "a rule")
    except PlanError:
        return
    assert parse_axes(format_axes(dims), "a rule") == dims


@pytest.mark.parametrize(("axes", "name"), [(("in",), "in"), (("layer", "role"), "(layer role)"), ((), "1")])
def test_the_name_of_a_mode(axes: tuple[str, ...], name: str) -> None:
    assert mode_name(axes) == name

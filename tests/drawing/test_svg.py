"""SVG text: widths of letters, intervals moved apart, characters that XML does not allow."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.drawing.svg import Canvas, apart, text_width
from tests.drawing.reading import texts


def test_what_xml_cannot_hold_is_replaced() -> None:
    canvas = Canvas()
    canvas.text(0, 0, "a\x00b\ud800")
    assert texts(canvas.svg("\x01"))[0] == "a\ufffdb\ufffd"


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 30)), min_size=1, max_size=8))
def test_things_moved_apart_keep_their_order_and_balance(things: list[tuple[int, int]]) -> None:
    wanted, widths = [x for x, _ in things], [width for _, width in things]
    placed = apart(wanted, widths, 2.0)
    assert sum(placed) == pytest.approx(sum(wanted), abs=1e-6)
    order = sorted(range(len(things)), key=lambda at: (wanted[at], at))
    for left, right in itertools.pairwise(order):
        assert placed[right] - placed[left] >= (widths[left] + widths[right]) / 2 + 2 - 1e-6


def test_a_text_is_as_wide_as_its_letters() -> None:
    assert text_width("ab", 20) == pytest.approx(2 * text_width("ab", 10))
    assert text_width("") == 0

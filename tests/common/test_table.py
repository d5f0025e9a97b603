"""Tables, printed as aligned Markdown, and numbers of things."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tensorfact.common.table import Table, display_width, scaled

words = st.text("abc ", max_size=6)


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[words] * width), min_size=1, max_size=4)))
def test_columns_line_up_and_cells_survive(rows: list[tuple[str, ...]]) -> None:
    lines = str(Table(rows[0], tuple(rows[1:]))).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == len(rows) + 1
    for line, row in zip([lines[0], *lines[2:]], rows, strict=True):
        assert [cell.strip() for cell in line.strip("|").split("|")] == [cell.strip() for cell in row]


@given(st.integers(0, 10**15))
def test_scaled_numbers_are_right_to_three_digits(number: int) -> None:
    value, _, unit = scaled(number, "B").partition(" ")
    power = "BkMGT".index(unit[0]) if unit != "B" else 0
    assert abs(float(value.replace(",", "")) * 1000**power - number) <= 0.005001 * number
    assert number >= 10**15 - 1 or number >= 999.5e12 or len(value) <= 4


def test_columns_stay_aligned_with_wide_characters_and_bars() -> None:
    table = Table(("class", "share"), (("猫", "10 %"), ("a|b", "2 %"), ("cafe\N{COMBINING ACUTE ACCENT}", "1 %")))
    lines = str(table).splitlines()
    assert {display_width(line) for line in lines} == {17}
    assert lines[2:] == ["| 猫    | 10 %  |", r"| a\|b  | 2 %   |", "| cafe\N{COMBINING ACUTE ACCENT}  | 1 %   |"]

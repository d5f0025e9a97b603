"""Tables, printed as aligned Markdown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tensorfact.common.table import Table

words = st.text("abc ", max_size=6)


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[words] * width), min_size=1, max_size=4)))
def test_columns_line_up_and_cells_survive(rows: list[tuple[str, ...]]) -> None:
    lines = str(Table(rows[0], tuple(rows[1:]))).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == len(rows) + 1
    for line, row in zip([lines[0], *lines[2:]], rows, strict=True):
        assert [cell.strip() for cell in line.strip("|").split("|")] == [cell.strip() for cell in row]

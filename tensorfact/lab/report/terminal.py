"""Tables of a sweep for a terminal: without columns of single tasks if there are many."""

from __future__ import annotations

from collections.abc import Iterator

from ...common.table import Table
from .summary import Summary
from .tables import columns_of, full_heading

FEW = 4
"""Maximum number of tasks that get a column each."""


def terminal_tables(summary: Summary) -> Iterator[tuple[str, Table]]:
    """Yield the title and the table of every part.

    Args:
        summary: Summary of the sweep; runs may be missing.
    """
    for part in summary.parts:
        columns = [each for each in columns_of(part) if each.task is None or len(part.part.tasks) <= FEW]
        headers = ("method", *(full_heading(part, each) for each in columns))
        rows = tuple((row.row.label, *(each.text(row) for each in columns)) for row in part.rows)
        yield part.part.title + (f" ({summary.note})" if summary.note else ""), Table(headers, rows)

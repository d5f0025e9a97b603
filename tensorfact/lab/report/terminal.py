"""A sweep's tables as a terminal shows them: without the columns of single tasks where there are many."""

from __future__ import annotations

from collections.abc import Iterator

from ...common.table import Table
from .summary import Summary
from .tables import columns_of, full_heading

FEW = 4
"""So many tasks have a column each."""


def terminal_tables(summary: Summary) -> Iterator[tuple[str, Table]]:
    """Yield a title and a table for every part.

    Args:
        summary: What is known of the sweep.
    """
    for part in summary.parts:
        columns = [each for each in columns_of(part) if each.task is None or len(part.part.tasks) <= FEW]
        headers = ("method", *(full_heading(part, each) for each in columns))
        rows = tuple((row.row.label, *(each.text(row) for each in columns)) for row in part.rows)
        yield part.part.title + (f" ({summary.note})" if summary.note else ""), Table(headers, rows)

"""Tables printed as aligned Markdown."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of strings; `str` gives aligned Markdown.

    Args:
        headers: Column names.
        rows: One tuple of cells per row, as long as `headers`.

    Examples:
        >>> print(Table(("format", "count"), (("tt", "8,448"),)))
        | format | count |
        | ------ | ----- |
        | tt     | 8,448 |
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        cells = [self.headers, *self.rows]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.headers))]
        rule = tuple("-" * width for width in widths)
        lines = [self.headers, rule, *self.rows]
        padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in lines)
        return "\n".join(f"| {' | '.join(row)} |" for row in padded)

"""Progress as a callback, so that the library prints nothing by itself."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, units done, units in all)."""


def silent(task: str, done: int, total: int) -> None:
    """Report nothing: the default of the library."""

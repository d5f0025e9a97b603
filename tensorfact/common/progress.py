"""Progress callbacks: the library itself prints nothing."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (description of the task, units done, total units)."""


def silent(task: str, done: int, total: int) -> None:
    """Ignore progress; the default callback."""

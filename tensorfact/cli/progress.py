"""Progress bars on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..common.progress import Progress


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    """Show one progress bar per task on standard error, inside the context.

    Yields:
        The callback to pass as `progress=`.

    Examples:
        >>> with progress_bars() as progress:
        ...     progress("reading", 1, 1)
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(task: str, done: int, total: int) -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total)
            bars.update(tasks[task], completed=done, total=total)
            if done >= total:
                bars.remove_task(tasks.pop(task))

        yield report

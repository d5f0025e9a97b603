"""Download weights and data by name: `fetch`."""

from __future__ import annotations

from collections.abc import Callable

from ..common.checks import one_of
from ..errors import DataError
from .data.real import REAL
from .dinov2 import fetch_dinov2_s

FETCHED: dict[str, Callable[[], object]] = {
    "dinov2-s": fetch_dinov2_s,
    **{name: task.fetch for name, task in REAL.items() if task.fetch},
}
"""Functions that download something into the user's cache, by its name."""

TASKS = "tasks"
"""The name of the data of all real tasks."""


def fetch(name: str) -> dict[str, object]:
    """Download weights or data into the user's cache, if they are not there yet.

    Args:
        name: `dinov2-s`, a real task such as `mnist`, or `tasks` for all of them.

    Returns:
        The file or folder of everything that was asked for, by name.

    Raises:
        DataError: The name is unknown, or the download failed.
        CheckpointError: The file cannot be written.
    """
    one_of(name, (*FETCHED, TASKS), "fetch: name", DataError, fix="tensorfact fetch dinov2-s")
    names = [each for each in FETCHED if each in REAL] if name == TASKS else [name]
    return {each: FETCHED[each]() for each in names}

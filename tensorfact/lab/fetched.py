"""Download weights and data by name: `fetch`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..common.checks import one_of
from ..errors import DataError
from .data.mnist import fetch_mnist
from .dinov2 import fetch_dinov2_s

FETCHED: dict[str, Callable[[], Path]] = {"dinov2-s": fetch_dinov2_s, "mnist": fetch_mnist}
"""Functions that download something into the user's cache, by its name."""


def fetch(name: str) -> Path:
    """Download weights or data into the user's cache, if they are not there yet.

    Args:
        name: `dinov2-s` or `mnist`.

    Returns:
        The file.

    Raises:
        DataError: The name is unknown, or the download failed.
        CheckpointError: The file cannot be written.
    """
    one_of(name, FETCHED, "fetch: name", DataError, fix="tensorfact fetch dinov2-s")
    return FETCHED[name]()

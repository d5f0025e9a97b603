"""How much the memory of this process rises, as Linux reports it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

MEASURED = os.access("/proc/self/clear_refs", os.W_OK)
"""Whether the peak can be reset here."""


def mark() -> int:
    """Forget the peak and return the memory in bytes from which `risen` counts; 0 where nothing is measured.

    What the C library keeps of freed memory goes back first: allocations out of it would not raise the peak.
    """
    if not MEASURED:
        return 0
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _field("RssAnon")


def risen(before: int) -> int:
    """Return by how many bytes the memory rose at most since `mark`, without code of libraries that was first read."""
    return _field("VmHWM") - _field("RssFile") - before if MEASURED else 0


def _field(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

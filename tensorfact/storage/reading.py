"""Opening files that others may replace meanwhile, and that may not be files at all."""

from __future__ import annotations

import os
import weakref

from ..common.checks import AnyPath, file_path
from ..errors import CheckpointError
from .writing import reason, require_file

LARGEST_TEXT = 1 << 26
"""The most bytes of a text file that are read: 64 MiB."""


class OpenFile:
    """A regular file, open as long as this object is referenced: what is read is the file as it was when it was opened.

    Opening never waits, not even for a FIFO.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened, or is not a regular file.
    """

    def __init__(self, path: AnyPath) -> None:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(path, flags)
        weakref.finalize(self, os.close, self._descriptor)
        require_file(os.fstat(self._descriptor).st_mode)

    def is_at(self, path: AnyPath) -> bool:
        """Return whether the file is still the one at a path."""
        return os.path.samestat(os.fstat(self._descriptor), os.stat(path))

    def read(self, most: int = -1) -> bytes:
        """Return the contents from the start, at most `most` bytes if that is not negative."""
        with open(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            return file.read(most)


def read_text(path: AnyPath) -> str:
    """Read a text file in UTF-8.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is missing, not a file, not text, or too large.
    """
    path = file_path(path, "path", CheckpointError)
    try:
        contents = OpenFile(path).read(LARGEST_TEXT + 1)
        if len(contents) > LARGEST_TEXT:
            raise ValueError(f"more than {LARGEST_TEXT:,} bytes")  # noqa: TRY301
        return contents.decode()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {path}",
            expected="a text file",
            got=reason(error)[:200],
            fix="check the path, or restore the file from a copy",
        ) from error

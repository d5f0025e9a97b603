"""Hold a folder or a file for one process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..common.checks import ErrorClass

LOCK = ".lock"
"""The file in a folder by which it is held; it stays when the folder is free again."""


@contextlib.contextmanager
def locked(folder: Path, kind: ErrorClass, *, user: str, fix: str) -> Iterator[None]:
    """Context in which no other process holds a folder.

    Args:
        folder: The folder, which exists.
        kind: Class of the error.
        user: What else may hold the folder, for the message, such as `sweep`.
        fix: What to type for another folder.

    Raises:
        TensorfactError: Of class `kind`, if another process holds the folder, or the folder cannot be written.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise kind(
            f"{folder} is in use by another {user}", fix=f"wait for it, or pass another folder: {fix}"
        ) from error
    except OSError as error:
        raise kind(f"cannot write {folder}", got=str(error), fix=fix) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def turn(path: Path, kind: ErrorClass) -> Iterator[None]:
    """Context in which no other process changes a file; it waits for its turn.

    Args:
        path: The file, in a folder that exists. The file `.NAME.lock` beside it stays.
        kind: Class of the error.

    Raises:
        TensorfactError: Of class `kind`, if the folder cannot be written.
    """
    lock = FileLock(path.with_name(f".{path.name}{LOCK}"))
    try:
        lock.acquire()
    except OSError as error:
        raise kind(f"cannot write {path}", got=str(error), fix="choose another folder") from error
    try:
        yield
    finally:
        lock.release()

"""Files and folders that appear whole or not at all.

Contents are first written to a temporary file beside the target, which is then renamed. Its writer holds a lock on it,
which the system releases when the process ends: a temporary file without a lock was left by a killed process, and the
next write to the same target removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..common.checks import AnyPath, file_path
from ..errors import CheckpointError

if sys.platform != "win32":
    import fcntl

SUFFIX = ".tmp"
_OTHERS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def write_bytes(path: AnyPath, contents: bytes) -> None:
    """Write a file; on failure, an existing file is unchanged.

    An existing file keeps its mode bits, and a symbolic link stays a link: the file that it points to is replaced.

    Args:
        path: The file; its folder must exist.
        contents: What to write.

    Raises:
        CheckpointError: The file cannot be written.
    """
    path = _checked(path)
    with _explained(path), _staged(*_target(path), contents) as (temporary, target):
        os.replace(temporary, target)


def write_text(path: AnyPath, text: str) -> None:
    """Write a text file as UTF-8; on failure, an existing file is unchanged.

    Args:
        path: The file; its folder must exist.
        text: The contents.

    Raises:
        CheckpointError: The file cannot be written.
    """
    write_bytes(path, text.encode())


def write_folder(folder: AnyPath, files: Mapping[str, bytes]) -> None:
    """Write several files into a folder: all of them or none. Other files in the folder stay.

    At every moment the folder holds the old files, the new ones, or not the first of them, so that a process that is
    killed never leaves old and new ones together. Without the first file, the folder must count as empty.

    Args:
        folder: The folder; it is created, with its parents, if it does not exist.
        files: The contents by file name.

    Raises:
        CheckpointError: The folder or a file cannot be written; existing files are unchanged.
    """
    folder = _checked(folder)
    with _explained(folder):
        target = Path(os.path.realpath(folder))
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(found := os.stat(target).st_mode):
                raise OSError(f"{_kind(found) or 'a file'}, not a folder")
        if not target.exists() and _created(target, files):
            return
        for name in files:  # before anything is written
            _target(target / name)
        _replace_all(target, files)


def make_folder(folder: AnyPath) -> None:
    """Create a folder and its parents if they do not exist, to write files into it.

    Args:
        folder: The folder's path.

    Raises:
        CheckpointError: It cannot be created, or files may not be written into it.
    """
    path = file_path(folder, "folder", CheckpointError)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise CheckpointError(
                f"the folder {folder} is read-only",
                expected="a folder that files may be written into",
                fix=f"choose another folder, or chmod u+wx {folder}",
            )
    except OSError as error:
        raise CheckpointError(
            f"cannot create the folder {folder}", got=reason(error), fix="choose another folder"
        ) from error


def reason(error: BaseException) -> str:
    """Return what an error says, without the path, which the message names already.

    Args:
        error: The error of the system or of a library.
    """
    if isinstance(error, FileNotFoundError):
        return "No such file or directory"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__


def _kind(mode: int) -> str:
    """Return what a path is, if it is not a regular file; otherwise an empty string."""
    return _OTHERS.get(stat.S_IFMT(mode), "" if stat.S_ISREG(mode) else "a special file")


def require_file(mode: int) -> None:
    """Raise where a path is not a regular file, but a folder, a FIFO or a device.

    Args:
        mode: The mode that `os.stat` returned.

    Raises:
        OSError: It is not a regular file.
    """
    if kind := _kind(mode):
        raise OSError(f"{kind}, not a file")


def _checked(path: AnyPath) -> Path:
    path = file_path(path, "path", CheckpointError)
    if path.name:
        return path
    raise CheckpointError(
        f"cannot write {str(path)!r}",
        expected="the path of a file",
        fix="write to a path such as 'adapter.safetensors'",
    )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}",
            got=reason(error),
            cause="the folder does not exist, is not writable, or the disk is full",
            fix="create the folder or choose another path; an existing file is unchanged",
        ) from error


def _target(path: Path) -> tuple[Path, int | None]:
    """Return the file to replace, behind symbolic links, and its mode bits; None for the bits of a new file."""
    target = Path(os.path.realpath(path))
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return target, None
    require_file(found.st_mode)
    return target, stat.S_IMODE(found.st_mode)


@contextlib.contextmanager
def _staged(target: Path, mode: int | None, contents: bytes) -> Iterator[tuple[Path, Path]]:
    """Write the contents to a temporary file beside the target, locked and removed in the end; yield both paths."""
    _remove_leftovers(target)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with contextlib.ExitStack() as left:
        while True:
            temporary = _temporary(target)
            sink = left.enter_context(open(os.open(temporary, flags, 0o666), "wb"))
            left.callback(_removed, temporary)
            if _locked(sink.fileno(), temporary):
                break
        if mode is not None:
            os.chmod(temporary, mode)
        sink.write(contents)
        sink.flush()
        os.fsync(sink.fileno())
        if sys.platform == "win32":  # an open file cannot be renamed there
            sink.close()
        yield temporary, target


def _created(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Create a folder with its files in one step; return False if it exists by now."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    with contextlib.ExitStack() as left:
        while True:
            temporary = _temporary(folder)
            temporary.mkdir()
            left.callback(_removed, temporary)
            if sys.platform == "win32":  # a folder cannot be opened there, and so not be locked
                break
            descriptor = os.open(temporary, os.O_RDONLY)
            left.callback(os.close, descriptor)
            if _locked(descriptor, temporary):
                break
        for name, contents in files.items():
            with open(temporary / name, "xb") as sink:
                sink.write(contents)
                sink.flush()
                os.fsync(sink.fileno())
        try:
            os.rename(temporary, folder)
        except OSError:
            if folder.is_dir():
                return False
            raise
    return True


def _replace_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace files of an existing folder; if one of them fails, put the earlier ones back.

    The first file is moved away before the others are replaced, and comes last.
    """
    with _alone(folder), contextlib.ExitStack() as staged, contextlib.ExitStack() as undo:
        targets = {name: _target(folder / name) for name in files}
        changed = [name for name, (path, mode) in targets.items() if mode is None or path.read_bytes() != files[name]]
        names = changed if len(changed) < 2 else list(files)
        for path, _ in targets.values():
            _remove_leftovers(path)
        ready = [staged.enter_context(_staged(*targets[name], files[name])) for name in names]
        if len(ready) > 1:
            for _, target in ready:
                before = _temporary(target)
                staged.callback(_removed, before)
                undo.callback(_move_back, before, target)
                with contextlib.suppress(FileNotFoundError):
                    os.rename(target, before)
        for temporary, target in reversed(ready):
            if len(ready) > 1:
                undo.callback(_removed, target)
            os.replace(temporary, target)
        undo.pop_all()


def _move_back(before: Path, target: Path) -> None:
    """Put an old file back, if there was one."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(before, target)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Context manager in which no other process or thread replaces the files of a folder; others wait."""
    with contextlib.ExitStack() as left:
        if sys.platform != "win32":  # a folder cannot be opened there
            with contextlib.suppress(OSError):  # one that cannot be read, or a file system without locks
                descriptor = os.open(folder, os.O_RDONLY)
                left.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _temporary(target: Path) -> Path:
    """Return a new name for a temporary file; it is short, so that a target's name may have any allowed length."""
    return target.with_name(f"{_stem(target)}{secrets.token_hex(8)}{SUFFIX}")


def _stem(target: Path) -> str:
    return f".tensorfact-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]}-"


def _locked(descriptor: int, path: Path) -> bool:
    """Lock an open temporary file until it is closed; return False if it was removed before it was locked."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # a file system without locks: nothing is removed there
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files for this target whose writer has ended."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        for name in os.listdir(target.parent):
            if name.startswith(_stem(target)) and name.endswith(SUFFIX):
                _remove_unlocked(target.with_name(name))


def _remove_unlocked(path: Path) -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _removed(path)
        finally:
            os.close(descriptor)


def _removed(path: Path) -> None:
    """Remove a file or a folder, if it is still there."""
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()

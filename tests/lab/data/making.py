"""Images and data sets made on the spot."""

from __future__ import annotations

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

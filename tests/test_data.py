"""Splits are what they say, and a damaged folder is refused before training."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import tensorfact as tf
from tensorfact.errors import DataError


def lay_out(root: Path, classes: tuple[str, ...] = ("a", "b")) -> Path:
    for split in ("train", "val", "test"):
        for label in classes:
            (root / split / label).mkdir(parents=True)
            Image.new("RGB", (40, 30), (200, 100, 50)).save(root / split / label / "one.png")
    return root


def test_digits_are_three_disjoint_parts_of_real_images() -> None:
    data = tf.digits(tf.nano())
    assert data.sizes == {"train": 800, "val": 200, "test": 797}
    seen = [tuple(x.flatten().tolist()) for part in (data.train, data.val, data.test) for x, _ in (part[0], part[1])]
    assert len(set(seen)) == len(seen)
    x, y = data.train[0]
    assert x.shape == (1, 28, 28)
    assert 0 <= int(y) <= 9


def test_digits_fit_any_model() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224")
    assert tf.digits(model).train[0][0].shape == (3, 224, 224)


def test_digits_leave_a_test_split() -> None:
    with pytest.raises(DataError, match="below 1797"):
        tf.digits(tf.nano(), train=1700, val=97)


def test_image_folder_uses_the_models_own_transform(tmp_path: Path) -> None:
    data = tf.image_folder(lay_out(tmp_path / "pets"), tf.nano())
    assert (data.name, data.classes, data.train[0][0].shape) == ("pets", 2, (1, 28, 28))


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "val" / "a" / "one.png").unlink()
    with pytest.raises(DataError, match="val"):
        tf.image_folder(tmp_path, tf.nano())


def test_a_part_with_other_classes_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "test" / "b").rename(tmp_path / "test" / "c")
    with pytest.raises(DataError, match="test has other classes"):
        tf.image_folder(tmp_path, tf.nano())


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path)
    path = tmp_path / "train" / "b" / "one.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"train/b/one\.png is no readable image"):
        tf.image_folder(tmp_path, tf.nano())

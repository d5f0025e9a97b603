"""Images in files: a damaged folder is refused before training, and an image of any mode is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tensorfact.errors import DataError
from tensorfact.lab import arrays, image_folder, nano
from tensorfact.lab.data.images import data_config, open_rgb
from tests.lab.data.making import lay_out


def test_image_folder_uses_the_models_own_transform(tmp_path: Path) -> None:
    data = image_folder(lay_out(tmp_path / "pets"), nano())
    assert (data.name, data.classes, data.train[0][0].shape) == ("pets", 2, (1, 28, 28))


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "val" / "a" / "one.png").unlink()
    with pytest.raises(DataError, match="val"):
        image_folder(tmp_path, nano())


def test_a_part_with_other_classes_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "test" / "b").rename(tmp_path / "test" / "c")
    with pytest.raises(DataError, match="test has other classes"):
        image_folder(tmp_path, nano())


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path)
    path = tmp_path / "train" / "b" / "one.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"train/b/one\.png is not a readable image"):
        image_folder(tmp_path, nano())


def test_what_torchvision_passes_over_is_named_and_hidden_files_are_not(tmp_path: Path) -> None:
    folder = lay_out(tmp_path) / "train" / "b"
    for name in (".DS_Store", "._one.png"):
        (folder / name).touch()
    assert image_folder(tmp_path, nano()).sizes["train"] == 2
    for name in ("two.avif", "notes.txt", "below/three"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
        with pytest.raises(DataError, match=f"train/b/{name} does not have the extension of an image"):
            image_folder(tmp_path, nano())
        (folder / name).unlink()
    (folder / "below").rmdir()
    (folder / "again").symlink_to(folder)
    with pytest.raises(DataError, match="train/b/again is a link to a folder"):
        image_folder(tmp_path, nano())


def test_an_unchecked_folder_opens_no_image_before_it_is_asked_for(tmp_path: Path) -> None:
    lay_out(tmp_path)
    path = tmp_path / "train" / "b" / "one.png"
    path.write_bytes(b"")
    data = image_folder(tmp_path, nano(), check=False)
    assert data.train[0][0].shape == (1, 28, 28)
    with pytest.raises(DataError, match=r"train/b/one\.png is not a readable image"):
        data.train[1]


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "CMYK", "1", "LA"])
def test_an_image_of_any_mode_is_read(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new("RGB", (9, 7), (255, 255, 255)).convert(mode).save(path)
    image = open_rgb(path)
    assert (image.mode, image.size, image.getpixel((3, 3))) == ("RGB", (9, 7), (255, 255, 255))


def test_an_image_of_16_bits_keeps_its_range_and_one_without_a_range_is_refused(tmp_path: Path) -> None:
    pixels = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    assert np.array_equal(np.asarray(open_rgb(tmp_path / "image.png"))[..., 0], pixels // 256)
    Image.fromarray(pixels.astype(np.float32)).save(tmp_path / "image.tif")
    with pytest.raises(DataError, match="no known range; save the image as a PNG"):
        open_rgb(tmp_path / "image.tif")


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (9, 7), (10, 20, 30)).convert("P").save(path, transparency=bytes(range(256)))
    assert open_rgb(path).mode == "RGB"


def test_imagenets_statistics_are_for_three_channels() -> None:
    with pytest.raises(DataError, match="a model of 3 channels, got 1"):
        data_config(nano(), imagenet_statistics=True)
    model = timm.create_model("vit_tiny_patch16_224.augreg_in21k", img_size=32)
    images, labels = np.ones((4, 32, 32)), np.arange(4)
    own, other = (
        arrays(images, labels, model, train=1, val=1, imagenet_statistics=flag).train[0][0] for flag in (False, True)
    )
    assert own.unique().tolist() == [1.0]
    torch.testing.assert_close(other[:, 0, 0], torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))


@pytest.mark.parametrize("root", ["x" * 300, "a/" * 3000, "a\0b", "", 5])
def test_a_root_that_is_no_path_is_refused(root: Any) -> None:
    with pytest.raises(DataError, match="image_folder: root"):
        image_folder(root, nano())

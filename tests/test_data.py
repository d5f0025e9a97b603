"""Splits are what they say, and a damaged folder is refused before training."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tensorfact.errors import DataError
from tensorfact.lab import arrays, digits, few_shot, image_folder, nano, sprites, timm_dataset
from tensorfact.lab.data.images import data_config, open_rgb
from tensorfact.lab.data.splits import Joined, cut

from .helpers import samples_of


def lay_out(root: Path, classes: tuple[str, ...] = ("a", "b")) -> Path:
    for split in ("train", "val", "test"):
        for label in classes:
            (root / split / label).mkdir(parents=True)
            Image.new("RGB", (40, 30), (200, 100, 50)).save(root / split / label / "one.png")
    return root


def test_digits_are_three_disjoint_parts_of_real_images() -> None:
    data = digits(nano())
    assert data.sizes == {"train": 800, "val": 200, "test": 797}
    seen = [tuple(x.flatten().tolist()) for part in (data.train, data.val, data.test) for x, _ in (part[0], part[1])]
    assert len(set(seen)) == len(seen)
    x, y = data.train[0]
    assert x.shape == (1, 28, 28)
    assert 0 <= int(y) <= 9


def test_digits_fit_any_model() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224")
    assert digits(model).train[0][0].shape == (3, 224, 224)


def test_digits_leave_a_test_split() -> None:
    with pytest.raises(DataError, match="below 1797"):
        digits(nano(), train=1700, val=97)


@pytest.mark.parametrize("none", [None, 0, 1, 2])
def test_parts_are_disjoint_and_one_may_be_what_is_left(none: int | None) -> None:
    parts = cut(12, [None if at == none else size for at, size in enumerate((3, 4, 5))], seed=0, what="these")
    assert [len(part) for part in parts] == [3, 4, 5]
    assert sorted(itertools.chain(*parts)) == list(range(12))


def test_sizes_are_none_only_where_that_means_what_is_left() -> None:
    images, labels, model = np.zeros((30, 8, 8)), np.arange(30), nano()
    assert arrays(images, labels, model, train=None, val=5, test=7).sizes == {"train": 18, "val": 5, "test": 7}
    calls: list[Callable[..., Any]] = [
        functools.partial(arrays, images, labels, model, val=5),
        functools.partial(digits, model),
        functools.partial(sprites, "location", model),
    ]
    for call in calls:
        with pytest.raises(DataError, match=r"parts: expected .*integers of at least 1"):
            call(train=None)


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
    with pytest.raises(DataError, match=r"train/b/one\.png is no readable image"):
        image_folder(tmp_path, nano())


def test_what_torchvision_passes_over_is_named_and_hidden_files_are_not(tmp_path: Path) -> None:
    folder = lay_out(tmp_path) / "train" / "b"
    for name in (".DS_Store", "._one.png"):
        (folder / name).touch()
    assert image_folder(tmp_path, nano()).sizes["train"] == 2
    for name in ("two.avif", "notes.txt", "below/three"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
        with pytest.raises(DataError, match=f"train/b/{name} is no image by its name"):
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
    with pytest.raises(DataError, match=r"train/b/one\.png is no readable image"):
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
    with pytest.raises(DataError, match="no known range; write a PNG"):
        open_rgb(tmp_path / "image.tif")


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (9, 7), (10, 20, 30)).convert("P").save(path, transparency=bytes(range(256)))
    assert open_rgb(path).mode == "RGB"


def test_digits_are_the_ones_the_bundled_results_were_made_with() -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))[1000:1100]
    small = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[order] / 16
    large = torch.nn.functional.interpolate(small, (28, 28), mode="bilinear", align_corners=False)
    data = digits(nano())
    x, y = next(iter(DataLoader(data.test, 100)))
    assert torch.equal(x, (large - torch.tensor(0.2860)) / torch.tensor(0.3530))
    assert y.tolist() == labels[order].tolist()


def test_the_final_run_trains_on_train_then_val_and_fetches_batches() -> None:
    data = digits(nano(), train=8, val=4)
    assert isinstance(data.final, Joined)
    x, y = next(iter(DataLoader(data.final, 12)))
    parts = [next(iter(DataLoader(part, 12))) for part in (data.train, data.val)]
    assert torch.equal(x, torch.cat([part[0] for part in parts]))
    assert torch.equal(y, torch.cat([part[1] for part in parts]))
    some = data.final.__getitems__([9, 0, 7, 8])
    assert [int(label) for _, label in some] == [int(data.final[at][1]) for at in (9, 0, 7, 8)]


# ---------------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("shape", [(20, 28, 28), (20, 28, 28, 1), (20, 28, 28, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_bytes_and_of_numbers_are_the_same(shape: tuple[int, ...], channels: int) -> None:
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 256, shape, dtype=np.uint8), random.integers(0, 7, 20)
    model = nano() if channels == 1 else timm.create_model("test_vit")
    bytes_, numbers = (arrays(images, labels, model, train=10, val=5) for images in (pixels, pixels / 255))
    assert (bytes_.sizes, bytes_.classes) == ({"train": 10, "val": 5, "test": 5}, int(labels.max()) + 1)
    for (x, y), (other, label) in zip(samples_of(bytes_.train), samples_of(numbers.train), strict=True):
        torch.testing.assert_close(x, other)
        assert (x.shape[0], int(y)) == (channels, int(label))


def test_arrays_without_resizing_are_their_own_pixels_normalised() -> None:
    images = torch.rand(4, 28, 28, 3, generator=torch.Generator().manual_seed(0))
    data = arrays(images, torch.arange(4), nano(), train=1, val=1)
    x, y = data.train[0]
    grey = images[int(y)] @ torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(x[0] * 0.3530 + 0.2860, grey)


def test_a_shrunk_image_is_averaged_not_sampled() -> None:
    stripes = np.zeros((3, 112, 112), np.uint8)
    stripes[:, :, ::2] = 255
    data = arrays(stripes, [0, 1, 2], nano(), train=1, val=1)  # type: ignore[arg-type]
    inner = data.train[0][0][:, 2:-2, 2:-2] * 0.3530 + 0.2860
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (np.zeros((4, 3, 8, 8)), np.arange(4), "channels before height"),
        (np.zeros((4, 8)), np.arange(4), "height, width"),
        (np.zeros((0, 8, 8)), np.arange(0), "height, width"),
        (np.full((4, 8, 8), 255.0), np.arange(4), "divide by 255"),
        (np.full((4, 8, 8), np.nan), np.arange(4), "256 pixels that are NaN"),
        (np.zeros((4, 8, 8), int), np.arange(4), "uint8"),
        (np.zeros((4, 8, 8)), np.arange(3), "a label for each of 4 images"),
        (np.zeros((4, 8, 8)), np.arange(4) - 1, "0 up"),
        (np.zeros((4, 8, 8)), np.zeros(4), "class indices"),
        (np.array([None] * 4), np.arange(4), "rectangle"),
        (np.zeros((2, 8, 8)), np.arange(2), "below 2"),
    ],
)
def test_arrays_that_are_no_images_are_refused(images: Any, labels: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        arrays(images, labels, nano(), train=1, val=1)


@pytest.mark.parametrize("classes", [0, -1, True, 4.0])
def test_a_number_of_classes_is_one(classes: Any, tmp_path: Path) -> None:
    for call in (
        functools.partial(arrays, np.zeros((4, 8, 8)), np.zeros(4, int), nano()),
        functools.partial(few_shot, tmp_path, nano(), shots=1, seed=0),
        functools.partial(timm_dataset, str(tmp_path), nano()),
    ):
        with pytest.raises(DataError, match="classes: expected an integer of at least 1"):
            call(classes=classes)


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

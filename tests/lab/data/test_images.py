"""Images in files are read in any mode, upright, and as the model expects them."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import ExifTags, Image

from tensorfact.errors import DataError
from tensorfact.lab import arrays, image_folder, nano, open_task
from tensorfact.lab.data import fashion_mnist, few_shot, hugging_face, timm_dataset, vtab
from tensorfact.lab.data.images import SUFFIXES, data_config, is_image, open_rgb, opened, rgb, transform_from
from tests.helpers import refused
from tests.lab.data.making import lay_out
from tests.lab.data.test_preprocessing import CONFIG
from tests.make_benchmarks import lay_out_vtab


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "CMYK", "1", "LA"])
def test_an_image_of_any_mode_is_read(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new("RGB", (9, 7), (255, 255, 255)).convert(mode).save(path)
    image = open_rgb(path)
    assert (image.mode, image.size, image.getpixel((3, 3))) == ("RGB", (9, 7), (255, 255, 255))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_file_that_is_listed_is_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image{suffix.upper()}"
    image = Image.new("RGB", (9, 7), (255, 255, 255))
    (image.convert("L") if suffix == ".pgm" else image).save(path)
    assert is_image(str(path))
    assert open_rgb(path).getpixel((3, 3)) == (255, 255, 255)


def test_the_first_picture_of_an_animation_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "white").save(
        tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "black")]
    )
    assert open_rgb(tmp_path / "a.gif").getpixel((3, 3)) == (255, 255, 255)


def test_an_image_that_cannot_be_read_is_told_from_one_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    for name, words in (
        ("text.png", f"{tmp_path / 'text.png'} is not a readable image: got no kind of image that Pillow knows"),
        ("link.png", f"the image {tmp_path / 'link.png'} does not exist"),
        ("gone.png", f"the image {tmp_path / 'gone.png'} does not exist"),
    ):
        with refused(DataError, words):
            open_rgb(tmp_path / name)


def test_an_image_of_16_bits_keeps_its_range_and_one_without_a_range_is_refused(tmp_path: Path) -> None:
    pixels = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    assert np.array_equal(np.asarray(open_rgb(tmp_path / "image.png"))[..., 0], pixels // 256)
    Image.fromarray(pixels.astype(np.float32)).save(tmp_path / "image.tif")
    with refused(DataError, "got pixels of mode 'F', which have no known range.", "Fix: save the image as a PNG of 8"):
        open_rgb(tmp_path / "image.tif")


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (9, 7), (10, 20, 30)).convert("P").save(path, transparency=bytes(range(256)))
    assert open_rgb(path).mode == "RGB"


CORNERS = np.array([[10, 60], [110, 160]], dtype=np.uint8).repeat(8, 0).repeat(8, 1)
"""An image of four shades."""


def turned(orientation: int) -> Image.Image:
    """Return the stored pixels of an image that is upright as `CORNERS` once its orientation is applied."""
    undo: list[Callable[[Any], Any]] = [
        lambda x: x,
        np.fliplr,
        lambda x: np.rot90(x, 2),
        np.flipud,
        np.transpose,
        np.rot90,
        lambda x: np.rot90(np.transpose(x), 2),
        lambda x: np.rot90(x, 3),
    ]
    return Image.fromarray(np.ascontiguousarray(undo[orientation - 1](CORNERS)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_the_orientation_of_exif_data_is_applied(name: str, orientation: int, tmp_path: Path) -> None:
    image = turned(orientation)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    image.convert("RGB").save(tmp_path / name, exif=exif, quality=95)
    found = open_rgb(tmp_path / name)
    assert found.getexif().get(ExifTags.Base.Orientation, 1) == 1
    for again in (found, rgb(found)):
        assert np.abs(np.asarray(again.convert("L")).astype(int) - CORNERS).max() < 20


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_every_source_of_files_turns_images_upright(name: str, tmp_path: Path) -> None:
    pytest.importorskip("datasets").disable_progress_bars()
    found = {}
    for kind in ("turned", "upright"):
        for at, split in enumerate(("train", "val", "test")):
            image = turned(6 if kind == "turned" else 1).point(lambda shade, more=at * 30: shade + more)
            exif = image.getexif()
            exif[ExifTags.Base.Orientation] = 6 if kind == "turned" else 1
            for label in ("a", "b"):
                path = tmp_path / kind / split / label / name
                path.parent.mkdir(parents=True)
                image.save(path, exif=exif)
        root = tmp_path / kind
        found[kind] = [
            image_folder(root, nano()),
            timm_dataset(str(root), nano(), val_split="val"),
            hugging_face(root, nano(), root=tmp_path / "cache"),
        ]
    for one, other in zip(*found.values(), strict=True):
        assert (one.val[0][0] - other.val[0][0]).abs().mean() < 0.05


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # by Pillow, when it opens a JPEG
@pytest.mark.parametrize("exif", [b"Exif\0\0damaged", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"])
def test_damaged_exif_data_says_nothing(exif: bytes, tmp_path: Path) -> None:
    Image.fromarray(CORNERS).save(tmp_path / "a.jpg", exif=exif)
    assert open_rgb(tmp_path / "a.jpg").size == (16, 16)


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


@pytest.mark.parametrize(("channels", "mean"), [(1, 0.5), (3, 0.5)])
def test_a_folder_has_the_channels_of_the_model(channels: int, mean: float, tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, in_chans=channels, depth=1)
    x, _ = image_folder(lay_out(tmp_path), model).train[0]
    assert x.shape == (channels, 32, 32)
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    expected = [grey] if channels == 1 else [200, 100, 50]
    assert ((x.mean((1, 2)) * 0.5 + mean) * 255).tolist() == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_files_have_no_other_channels_than_those_of_rgb(channels: int, tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, in_chans=channels, depth=1)
    with refused(DataError, "RGB", "1 or 3 channels", f"got {channels}", "in_chans=3"):
        image_folder(lay_out(tmp_path), model)


@pytest.mark.parametrize(("channels", "mean"), [(1, (0.449,)), (4, (0.485, 0.456, 0.406, 0.485)), (2, (0.485, 0.456))])
def test_statistics_follow_the_channels_as_timm_s_weights_do(channels: int, mean: tuple[float, ...]) -> None:
    """timm adds up the weights of the channels for one, and repeats them for several."""
    with torch.device("meta"):
        found = data_config(timm.create_model("resnet18", in_chans=channels))
    assert found["input_size"][0] == channels
    assert found["mean"] == pytest.approx(mean)
    assert len(found["std"]) == channels


@pytest.mark.parametrize("wrong", [None, 5, b"data", "", "a\0b", ["data"]])
def test_a_path_of_data_is_a_path(wrong: Any) -> None:
    calls: dict[str, Callable[[], object]] = {
        "image_folder: root": lambda: image_folder(wrong, nano()),
        "vtab: root": lambda: vtab(wrong, "svhn", nano()),
        "few_shot: root": lambda: few_shot(wrong, nano(), shots=1, seed=0),
        "timm_dataset: name": lambda: timm_dataset(wrong, nano(), root="data"),
        "hugging_face: data": lambda: hugging_face(wrong, nano()),
    }
    if wrong is not None:
        calls |= {
            "fashion_mnist: root": lambda: fashion_mnist(nano(), root=wrong),
            "timm_dataset: root": lambda: timm_dataset("data", nano(), root=wrong),
            "hugging_face: root": lambda: hugging_face("data", nano(), root=wrong),
            "open_task: root": lambda: open_task("digits", nano(), root=wrong),
        }
    if isinstance(wrong, str):
        del calls["timm_dataset: name"]
    for argument, call in calls.items():
        with refused(DataError, argument, repr(wrong), "Fix: "):
            call()


def pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def test_a_named_pipe_among_the_data_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    calls: list[tuple[Path, Callable[[Path], object]]] = [
        (lay_out(tmp_path / "a") / "train" / "b" / "one.png", lambda _: image_folder(tmp_path / "a", nano())),
        (lay_out(tmp_path / "b") / "train" / "b" / "one.png", lambda _: timm_dataset("b", nano(), root=tmp_path)),
        (lay_out_vtab(tmp_path / "c", "svhn") / "svhn" / "val200.txt", lambda at: vtab(at.parents[1], "svhn", nano())),
        (tmp_path / "train-images-idx3-ubyte.gz", lambda at: fashion_mnist(nano(), root=at.parent)),
        (tmp_path / "root", lambda at: image_folder(at, nano())),
    ]
    for path, call in calls:
        with pytest.raises(DataError, match=r"not a regular file|Not a directory"):
            call(pipe(path))


@pytest.mark.parametrize("root", ["x" * 300, "a/" * 3000, "a\0b", "", 5])
def test_a_root_that_is_no_path_is_refused(root: Any) -> None:
    with pytest.raises(DataError, match="image_folder: root"):
        image_folder(root, nano())


MODES = ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "turned"]


def in_mode(mode: str) -> Image.Image:
    image = Image.effect_noise((24, 20), 60)
    if mode == "turned":
        image.getexif()[ExifTags.Base.Orientation] = 6
        return image
    if mode == "I;16":
        return Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    return image.convert("RGB").convert(mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_transform_takes_an_image_of_any_mode(mode: str, channels: int) -> None:
    config = CONFIG | {"input_size": [channels, 16, 16], "mean": [0.5] * channels, "std": [0.5] * channels}
    transform, image = transform_from(config), in_mode(mode)
    found = transform(image)
    assert found.shape == (channels, 16, 16)
    assert torch.equal(found, transform(rgb(image)))
    again = pickle.loads(pickle.dumps(transform))  # noqa: S301  # as a DataLoader sends it to its workers
    assert torch.equal(again(image), found)
    assert repr(transform).startswith("Compose(\n    ToRGB()\n")


def test_the_transform_refuses_pixels_without_a_range() -> None:
    with refused(DataError, "the image is not a readable image: got pixels of mode 'F', which have no known range"):
        transform_from(CONFIG)(Image.new("F", (20, 20)))


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns above 90,000 pixels, and refuses above 180,000."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90_000)


@pytest.mark.usefixtures("small_limit")
def test_pillow_s_limits_are_no_warning_and_a_plain_error(tmp_path: Path) -> None:
    for side in (400, 500):
        Image.effect_noise((side, side), 60).save(tmp_path / f"{side}.png")
    contents = (tmp_path / "400.png").read_bytes()
    for file in (tmp_path / "400.png", contents, io.BytesIO(contents)):
        with opened(file) as image:
            assert image.size == (400, 400)
    assert open_rgb(tmp_path / "400.png").size == (400, 400)
    words = "got more than 180,000 pixels, the most that Pillow opens", "make it smaller", "MAX_IMAGE_PIXELS = None"
    with refused(DataError, tmp_path / "500.png", *words):
        open_rgb(tmp_path / "500.png")
    assert Image.MAX_IMAGE_PIXELS == 90_000

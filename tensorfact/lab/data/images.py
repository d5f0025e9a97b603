"""Images from files, and the preprocessing that a model expects."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...common.aliases import Options
from ...common.checks import AnyPath, callback, flag
from ...common.progress import Progress
from ...errors import DataError
from ...model.example import image_shape
from ...storage.writing import reason
from .preprocessing import checked_channels

Transform = Callable[[Image.Image], Tensor]
"""Preprocessing of an image."""
Opener = Callable[[str], Image.Image]
"""Reads an image file by its name as RGB; raises a `DataError` if it is not a readable image."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""The ends of the names of image files, wherever they are read: to train, to evaluate and to predict."""


def is_image(path: str) -> bool:
    """Return whether a path ends as that of an image file does, in lower or upper case."""
    return path.lower().endswith(SUFFIXES)


def check_suffix(where: str) -> None:
    """Raise for a file that is not named like an image.

    Args:
        where: Name of the file, which ends as its path does.

    Raises:
        DataError: The name does not have the extension of an image.
    """
    if not is_image(where):
        raise DataError(
            f"{where} does not have the extension of an image",
            expected=f"one of {', '.join(SUFFIXES)}",
            fix="convert, rename or remove the file",
        )


def data_config(model: nn.Module, *, imagenet_statistics: bool = False, **changes: object) -> Options:
    """Return timm's data configuration of a model.

    Args:
        model: A model with a timm data configuration, or of transformers, whose images get the size in its
            configuration and ImageNet's mean and standard deviation.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation instead of the model's.
        changes: Entries to override, such as `crop_mode` and `crop_pct`.

    Raises:
        DataError: `imagenet_statistics` (three channels) for a model with another number of channels.
    """
    flag(imagenet_statistics, "imagenet_statistics", DataError)
    config: Options = {**resolve_model_data_config(model), **changes}
    size = image_shape(model) or config["input_size"]  # as constructed, which may differ from as pretrained
    if not imagenet_statistics:
        own = {name: _per_channel(config[name], size[0]) for name in ("mean", "std")}
        return {**config, "input_size": size, **own}
    if size[0] != len(IMAGENET_DEFAULT_MEAN):
        raise DataError(
            "imagenet_statistics=True",
            expected=f"a model of {len(IMAGENET_DEFAULT_MEAN)} channels",
            got=f"{size[0]}",
            fix="pass imagenet_statistics=False for the model's own statistics",
        )
    return {**config, "input_size": size, "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return statistics for another number of channels than pretrained with, as timm adapts the first layer's weights.

    timm adds up the weights of all channels for one, and repeats them for several.
    """
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[at % len(values)] for at in range(channels))


def transform_of(model: nn.Module, *, imagenet_statistics: bool = False, **changes: object) -> Transform:
    """Return the preprocessing that a model expects of an image of any mode; see `data_config` for the arguments.

    Raises:
        DataError: The model has neither one channel, for which images become grey, nor three.
    """
    return transform_from(data_config(model, imagenet_statistics=imagenet_statistics, **changes))


def transform_from(config: Options) -> Transform:
    """Return the preprocessing of an image of any mode that timm's data configuration describes.

    The image is converted as `rgb` does, so that a file opened with Pillow gives what `predict` computes from it.

    Args:
        config: The configuration, as `data_config` returns it.

    Raises:
        DataError: The number of channels is neither one, for which images become grey, nor three; or the configuration
            is damaged.
    """
    from torchvision.transforms import Compose, Grayscale

    try:
        channels = checked_channels(config)
        transform = create_transform(**config, is_training=False)
    except Exception as error:  # timm and torchvision raise errors of many classes
        raise DataError(
            "the description of the preprocessing is damaged",
            expected="timm's data configuration: input_size, mean, std, interpolation, crop_pct, crop_mode",
            got=str(error) or type(error).__name__,
            fix="data_config(model) describes that of a model",
        ) from error
    if channels not in (1, 3):
        raise DataError(
            "image files have the channels of RGB",
            expected="a model of 1 or 3 channels",
            got=str(channels),
            fix="create the model with in_chans=3, or pass arrays(images, labels, model) with its channels",
        )
    grey = [Grayscale()] if channels == 1 else []
    made: Transform = Compose([ToRGB(), *grey, *transform.transforms])
    return made


class ToRGB:
    """Convert an image of any mode as `rgb` does; a tensor, which has no mode, passes through."""

    def __call__(self, image: Image.Image | Tensor) -> Image.Image | Tensor:
        """Return the image as RGB.

        Args:
            image: The image.

        Raises:
            DataError: Its pixels have no known range.
        """
        if not isinstance(image, Image.Image):
            return image
        with readable("the image"):
            return rgb(image)

    def __repr__(self) -> str:
        return "ToRGB()"


class UnknownRangeError(ValueError):
    """Pixels of which it is not known which value is white."""


def rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, turned upright as its EXIF orientation says.

    Grey images get three equal channels. Transparency is dropped: the colours of transparent pixels show. 16 bits
    become 8.

    Raises:
        UnknownRangeError: The pixels have no known range (modes "I" and "F"); Pillow would clip them at 255.
    """
    if image.mode in ("I", "F"):
        raise UnknownRangeError(f"pixels of mode {image.mode!r}, which have no known range")
    image.load()  # Pillow turns TIFF images here, after which their orientation is 1
    orientation = _orientation(image)
    if type(image) is Image.Image and image.mode == "RGB" and orientation == 1:  # of no file that could be closed
        return image
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns if a palette with transparency becomes RGB directly
    found = image.convert("RGB")
    if orientation != 1:
        found.info = {}  # Pillow would write the EXIF data again, which fails for some that it can read
        found.getexif()[ExifTags.Base.Orientation] = orientation
        ImageOps.exif_transpose(found, in_place=True)
    return found


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1, upright, if it has none or its EXIF data is damaged."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's readers raise errors of many classes
        return 1
    return found if found in range(1, 9) else 1


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Raise every error inside as a `DataError` that says that an image is missing or not readable.

    Args:
        name: Name of the image for the message.
    """
    try:
        yield
    except Exception as error:  # Pillow's decoders raise errors of many classes
        raise unreadable(name, error) from error


def unreadable(name: str, error: BaseException) -> DataError:
    """Return the error for an image that cannot be read.

    Args:
        name: Name of the image for the message.
        error: What its reader raised.
    """
    if isinstance(error, FileNotFoundError):
        return DataError(
            f"the image {name} does not exist",
            cause="a mistyped path, or a link to a file that is gone",
            fix="correct the path, or remove it from the data",
        )
    got, fix = reason(error), "replace or remove the file"
    if isinstance(error, UnidentifiedImageError):
        got = "no kind of image that Pillow knows"
    elif isinstance(error, Image.DecompressionBombError) and Image.MAX_IMAGE_PIXELS is not None:
        got = f"more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels, the most that Pillow opens"
        fix = "make it smaller; or, if you trust the file, PIL.Image.MAX_IMAGE_PIXELS = None before it is read"
    elif isinstance(error, UnknownRangeError):
        fix = "save the image as a PNG of 8 or 16 bits"
    return DataError(f"{name} is not a readable image", got=got, fix=fix)


@contextlib.contextmanager
def opened(file: AnyPath | bytes | IO[bytes]) -> Iterator[Image.Image]:
    """Open an image, without Pillow's warning about more than 89 million pixels, which many cameras take.

    Args:
        file: The path, the contents of the file, or an open file.

    Raises:
        Exception: Whatever Pillow raises for a damaged file, and for one of more than 179 million pixels.
    """
    # suppressing makes Python repeat other warnings, so small files, which hardly hold so many pixels, are left out
    large = True
    if isinstance(file, (str, bytes, os.PathLike)):
        large = (len(file) if isinstance(file, bytes) else os.path.getsize(file)) >= _LARGE_FILE
    with warnings.catch_warnings() if large else contextlib.nullcontext():
        if large:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    with image:
        yield image


_LARGE_FILE = 1 << 16
"""The least bytes of a file whose picture may be above Pillow's limit for a warning."""


def open_rgb(path: AnyPath) -> Image.Image:
    """Read an image file as RGB; see `rgb`. Of a file with several pictures, the first is read.

    Raises:
        DataError: The file does not exist, or is not a readable image.
    """
    with readable(str(path)):
        refuse_pipe(path)
        with opened(path) as image:
            return rgb(image)


def refuse_pipe(path: AnyPath) -> None:
    """Raise for a named pipe, which would be waited for forever, and for other special files.

    Raises:
        OSError: The path exists, and is neither a file nor a folder.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise OSError("not a regular file")


def check_images(images: Sequence[tuple[str, str]], task: str, progress: Progress, opener: Opener = open_rgb) -> None:
    """Open every image, and raise if one is not readable.

    Args:
        images: Name for messages, and name of the file for `opener`, of every image.
        task: First argument of `progress`.
        progress: Called after each image.
        opener: Reads a file.

    Raises:
        DataError: A file is not a readable image, or `progress` is not a function of its arguments.
    """
    callback(progress, "progress", DataError)
    for done, (name, file) in enumerate(images, 1):
        try:
            opener(file)
        except DataError as error:
            raise unreadable(name, error.__cause__ or error) from error
        progress(task, done, len(images))


class ListedImages(Dataset[tuple[Tensor, int]]):
    """Image files, read and preprocessed on access.

    Args:
        samples: Name of the file and label of every image.
        transform: Preprocessing of an image.
        opener: Reads a file by its name; default: the name is a path.
    """

    def __init__(self, samples: Sequence[tuple[str, int]], transform: Transform, opener: Opener = open_rgb) -> None:
        self.samples, self.transform, self.opener = samples, transform, opener

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, label = self.samples[index]
        return self.transform(self.opener(file)), label


class ImageSource(Protocol):
    """A sequence of (image, label) pairs, read by another library."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]: ...


class SourceImages(Dataset[tuple[Tensor, int]]):
    """Images of another library, read and preprocessed on access.

    Args:
        source: Images and labels.
        transform: Preprocessing of an image.
        classes: Number of classes.
        what: Name of the source in messages.
    """

    def __init__(self, source: ImageSource, transform: Transform, classes: int, what: str) -> None:
        self.source, self.transform, self.classes, self.what = source, transform, classes, what

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Return an image before its preprocessing, and its label.

        Raises:
            DataError: The image is not readable, or its label is not a class index.
        """
        try:
            image, label = self.source[index]
            found = None if image is None else rgb(image)
        except Exception as error:  # readers and decoders raise errors of many classes
            raise unreadable(f"{self.what}, sample {index}", error) from error
        if found is None:
            raise DataError(f"{self.what}, sample {index} has no image", fix="remove the sample from the data")
        if label is None or not 0 <= int(label) < self.classes:
            raise DataError(f"{self.what}, sample {index}: label", expected=f"0 to {self.classes - 1}", got=repr(label))
        return found, int(label)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.read(index)
        return self.transform(image), label

    def check(self, progress: Progress) -> None:
        """Read every image and label.

        Raises:
            DataError: An image is not readable, or has no label; or `progress` is not a function of its arguments.
        """
        callback(progress, "progress", DataError)
        for index in range(len(self)):
            self.read(index)
            progress(f"checking {self.what}", index + 1, len(self))

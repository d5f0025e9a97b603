"""Images from files, and the preprocessing that a model expects."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...common.aliases import Options
from ...common.checks import AnyPath, callback, file_path, flag
from ...common.progress import Progress, silent
from ...errors import DataError
from ...model.example import timm_shape
from .splits import SPLITS, Splits

Transform = Callable[[Image.Image], Tensor]
"""Preprocessing of an image."""


def image_folder(
    root: AnyPath,
    model: nn.Module,
    *,
    imagenet_statistics: bool = False,
    check: bool = True,
    progress: Progress = silent,
) -> Splits:
    """Return the images in `root/{train,val,test}/CLASS/FILE`, preprocessed for a model.

    Args:
        root: Folder of the three splits.
        model: A model with a timm data configuration, which sets size, crop and normalisation.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation instead of the model's.
        check: Open every image now, so that an unreadable one raises before training.
        progress: Called after each checked image.

    Returns:
        The three splits.

    Raises:
        DataError: A split is missing or empty, the splits have different classes, a file is not an image (hidden files
            are skipped), or a folder within a class is a symbolic link.
    """
    from torchvision.datasets import ImageFolder

    folder = file_path(root, "image_folder: root", DataError, example="data/flowers")
    flag(check, "image_folder: check", DataError)
    transform = transform_of(model, imagenet_statistics=imagenet_statistics)
    parts: dict[str, ImageFolder] = {}
    for split in SPLITS:
        _check_files(folder / split)
        try:
            parts[split] = ImageFolder(str(folder / split), transform, loader=open_rgb, is_valid_file=_shown)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"{folder / split}: {error}",
                expected="a folder with one folder of images per class",
                fix=f"lay the images out as {folder}/{{train,val,test}}/CLASS/FILE",
            ) from error
        if parts[split].classes != parts["train"].classes:
            differ = sorted(set(parts[split].classes) ^ set(parts["train"].classes))
            raise DataError(
                f"{folder / split} has other classes than train: {differ[:5]} are in one of them only",
                fix="use the same class folders in train, val and test",
            )
        if check:
            check_images([(path, path) for path, _ in parts[split].samples], f"checking {split}", progress)
    return Splits(folder.name, parts["train"], parts["val"], parts["test"], classes=len(parts["train"].classes))


def _shown(path: str) -> bool:
    """Return whether a file is not hidden, as `.DS_Store` and `._one.png` are."""
    return not os.path.basename(path).startswith(".")


def _check_files(part: Path) -> None:
    """Reject files that torchvision would skip silently, and links to folders, which it could follow forever."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    for label in sorted(path for path in part.glob("*") if path.is_dir()):
        for folder, below, files in os.walk(label):
            for name in sorted(below):
                if Path(folder, name).is_symlink():
                    raise DataError(
                        f"{Path(folder, name)} is a link to a folder", fix="copy the images, or link each image"
                    )
            for name in sorted(files):
                if _shown(name) and not name.lower().endswith(IMG_EXTENSIONS):
                    raise DataError(
                        f"{Path(folder, name)} does not have the extension of an image",
                        expected=f"one of {', '.join(IMG_EXTENSIONS)}",
                        fix="convert, rename or remove the file",
                    )


def data_config(model: nn.Module, *, imagenet_statistics: bool = False, **changes: object) -> Options:
    """Return timm's data configuration of a model.

    Args:
        model: A model with a timm data configuration.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation instead of the model's.
        changes: Entries to override, such as `crop_mode` and `crop_pct`.

    Raises:
        DataError: `imagenet_statistics` (three channels) for a model with another number of channels.
    """
    flag(imagenet_statistics, "imagenet_statistics", DataError)
    config: Options = {**resolve_model_data_config(model), **changes}
    size = timm_shape(model) or config["input_size"]  # as constructed, which may differ from as pretrained
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
    """Return the preprocessing that a model expects of an RGB image; see `data_config` for the arguments.

    Raises:
        DataError: The model has neither one channel, for which images become grey, nor three.
    """
    return transform_from(data_config(model, imagenet_statistics=imagenet_statistics, **changes))


def transform_from(config: Options) -> Transform:
    """Return the preprocessing of an RGB image that timm's data configuration describes.

    Args:
        config: The configuration, as `data_config` returns it.

    Raises:
        DataError: The number of channels is neither one, for which images become grey, nor three; or the configuration
            is damaged.
    """
    from torchvision.transforms import Compose, Grayscale

    channels = config["input_size"][0]
    if channels not in (1, 3):
        raise DataError(
            "image files have the channels of RGB",
            expected="a model of 1 or 3 channels",
            got=str(channels),
            fix="create the model with in_chans=3, or pass arrays(images, labels, model) with its channels",
        )
    transform = create_transform(**config, is_training=False)
    made: Transform = Compose([Grayscale(), transform]) if channels == 1 else transform
    return made


def rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB; transparency is dropped, 16 bits become 8.

    Raises:
        ValueError: The pixels have no known range (modes "I" and "F"); Pillow would clip them at 255.
    """
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range; save the image as a PNG of 8 or 16 bits")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns if a palette with transparency becomes RGB directly
    return image.convert("RGB")


def open_rgb(path: AnyPath) -> Image.Image:
    """Read an image file as RGB.

    Raises:
        DataError: The file is not a readable image.
    """
    try:
        refuse_pipe(path)
        with Image.open(path) as image:
            return rgb(image)
    except Exception as error:  # Pillow's decoders raise errors of many classes
        raise DataError(
            f"{path} is not a readable image", got=str(error).replace(str(path), "it"), fix="replace or remove the file"
        ) from error


def refuse_pipe(path: AnyPath) -> None:
    """Raise for a named pipe, which would be waited for forever, and for other special files.

    Raises:
        OSError: The path exists, and is neither a file nor a folder.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise OSError("not a regular file")


def check_images(images: Sequence[tuple[str, str]], task: str, progress: Progress) -> None:
    """Open every image, and raise if one is not readable.

    Args:
        images: Name for messages, and path, of every image.
        task: First argument of `progress`.
        progress: Called after each image.

    Raises:
        DataError: A file is not a readable image, or `progress` is not a function of its arguments.
    """
    callback(progress, "progress", DataError)
    for done, (name, path) in enumerate(images, 1):
        try:
            open_rgb(path)
        except DataError as error:
            raise DataError(
                f"{name} is not a readable image", got=str(error.__cause__), fix="replace or remove the file"
            ) from error
        progress(task, done, len(images))


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
            raise DataError(f"{self.what}, sample {index} is not a readable image", got=str(error)) from error
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

"""Images in files, and the transform that a model was made for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...common.checks import AnyPath
from ...common.progress import Progress, silent
from ...errors import DataError
from ...model.example import timm_shape
from .splits import SPLITS, Splits


def image_folder(
    root: AnyPath,
    model: nn.Module,
    *,
    imagenet_statistics: bool = False,
    check: bool = True,
    progress: Progress = silent,
) -> Splits:
    """Return images in `root/{train,val,test}/CLASS/FILE`, with the transform a model was made for.

    Args:
        root: The folder.
        model: A model with a timm data configuration; decides size, crop and normalisation.
        imagenet_statistics: Normalise by ImageNet's mean and deviation instead of the model's own.
        check: Open every image before anything trains.
        progress: Called as files are checked.

    Returns:
        The three parts.

    Raises:
        DataError: A part is missing or empty, the parts differ in their classes, a file is no image (one whose name
            begins with a dot is passed over), or a folder within a class is a link.
    """
    from torchvision.datasets import ImageFolder

    transform = transform_of(model, imagenet_statistics=imagenet_statistics)
    parts: dict[str, ImageFolder] = {}
    for split in SPLITS:
        _check_files(Path(root) / split)
        try:
            parts[split] = ImageFolder(str(Path(root) / split), transform, loader=open_rgb, is_valid_file=_shown)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"{Path(root) / split}: {error}",
                expected="a folder with one folder of images a class",
                fix=f"lay the images out as {root}/{{train,val,test}}/CLASS/FILE",
            ) from error
        if parts[split].classes != parts["train"].classes:
            differ = sorted(set(parts[split].classes) ^ set(parts["train"].classes))
            raise DataError(f"{Path(root) / split} has other classes than train", got=f"differing in {differ[:5]}")
        if check:
            check_images([(path, path) for path, _ in parts[split].samples], f"checking {split}", progress)
    return Splits(Path(root).name, parts["train"], parts["val"], parts["test"], classes=len(parts["train"].classes))


def _shown(path: str) -> bool:
    """Tell whether a file is none of those that systems leave behind, `.DS_Store` or `._one.png`."""
    return not os.path.basename(path).startswith(".")


def _check_files(part: Path) -> None:
    """Refuse what torchvision passes over in silence in the classes' folders, and links that it follows in circles."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    for label in sorted(path for path in part.glob("*") if path.is_dir()):
        for folder, below, files in os.walk(label):
            for name in sorted(below):
                if Path(folder, name).is_symlink():
                    raise DataError(
                        f"{Path(folder, name)} is a link to a folder", fix="copy the images, or link each of them"
                    )
            for name in sorted(files):
                if _shown(name) and not name.lower().endswith(IMG_EXTENSIONS):
                    raise DataError(
                        f"{Path(folder, name)} is no image by its name",
                        expected=f"one of {', '.join(IMG_EXTENSIONS)}",
                        fix="convert, rename or remove the file",
                    )


def data_config(model: nn.Module, *, imagenet_statistics: bool = False, **changes: Any) -> dict[str, Any]:
    """Return timm's data configuration of a model.

    Args:
        model: A model with a timm data configuration.
        imagenet_statistics: Normalise by ImageNet's mean and deviation instead of the model's own.
        changes: Entries to change: `crop_mode`, `crop_pct`.

    Raises:
        DataError: ImageNet's statistics, which are of three channels, for a model of another number.
    """
    config = {**resolve_model_data_config(model), **changes}
    config["input_size"] = timm_shape(model) or config["input_size"]  # as made, which may differ from as pretrained
    if not imagenet_statistics:
        return config
    if config["input_size"][0] != len(IMAGENET_DEFAULT_MEAN):
        raise DataError(
            "imagenet_statistics",
            expected=f"a model of {len(IMAGENET_DEFAULT_MEAN)} channels",
            got=f"{config['input_size'][0]}",
            fix="leave it out, and the model's own are used",
        )
    return config | {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}


def transform_of(model: nn.Module, *, imagenet_statistics: bool = False, **changes: Any) -> Callable[[Any], Tensor]:
    """Return the transform of images that a model was made for; see `data_config` for the arguments."""
    from torchvision.transforms import Compose, Grayscale

    config = data_config(model, imagenet_statistics=imagenet_statistics, **changes)
    transform = create_transform(**config, is_training=False)
    made: Callable[[Any], Tensor] = Compose([Grayscale(), transform]) if config["input_size"][0] == 1 else transform
    return made


def rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode in red, green and blue; transparency is dropped, 16 bits become 8.

    Raises:
        ValueError: Its pixels have no known range, which Pillow would cut at 255.
    """
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range; write a PNG of 8 or 16 bits")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns where the palette is converted at once
    return image.convert("RGB")


def open_rgb(path: AnyPath) -> Image.Image:
    """Read an image file.

    Raises:
        DataError: It is no image.
    """
    try:
        with Image.open(path) as image:
            return rgb(image)
    except Exception as error:  # Pillow's decoders raise whatever they meet
        raise DataError(
            f"{path} is no readable image", got=str(error).replace(str(path), "it"), fix="replace or remove the file"
        ) from error


def check_images(images: Sequence[tuple[str, str]], task: str, progress: Progress) -> None:
    """Open every image.

    Args:
        images: For every image, what to call it in a message, and its path.
        task: What is done, for `progress`.
        progress: Called after each.

    Raises:
        DataError: One is no image.
    """
    for done, (name, path) in enumerate(images, 1):
        try:
            open_rgb(path)
        except DataError as error:
            raise DataError(
                f"{name} is no readable image", got=str(error.__cause__), fix="replace or remove the file"
            ) from error
        progress(task, done, len(images))


class ImageSource(Protocol):
    """Images and their labels by position, whoever reads them."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]: ...


class SourceImages(Dataset[tuple[Tensor, int]]):
    """Images of another library, transformed when they are asked for.

    Args:
        source: Images and labels.
        transform: From an image to a tensor.
        classes: How many classes there are.
        what: What the source is called in messages.
    """

    def __init__(self, source: ImageSource, transform: Callable[[Any], Tensor], classes: int, what: str) -> None:
        self.source, self.transform, self.classes, self.what = source, transform, classes, what

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Return an image before its transform.

        Raises:
            DataError: It is no image, or its label is none.
        """
        try:
            image, label = self.source[index]
            found = None if image is None else rgb(image)
        except Exception as error:  # whatever the library's reader and Pillow's decoders meet
            raise DataError(f"{self.what}, sample {index} is no readable image", got=str(error)) from error
        if found is None:
            raise DataError(f"{self.what}, sample {index} has no image", got="None")
        if label is None or not 0 <= int(label) < self.classes:
            raise DataError(
                f"{self.what}, sample {index}: its label", expected=f"0 to {self.classes - 1}", got=repr(label)
            )
        return found, int(label)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.read(index)
        return self.transform(image), label

    def check(self, progress: Progress) -> None:
        """Read every image.

        Raises:
            DataError: One is no image, or has no label.
        """
        for index in range(len(self)):
            self.read(index)
            progress(f"checking {self.what}", index + 1, len(self))

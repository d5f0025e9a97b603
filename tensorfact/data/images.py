"""Images in folders, and the transform that a model was made for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from ..errors import DataError
from ..progress import Progress, silent
from .splits import SPLITS, Splits


def image_folder(root: str | Path, model: nn.Module, *, progress: Progress = silent) -> Splits:
    """Return images in `root/{train,val,test}/CLASS/FILE`, with the transform a model was made for.

    Every file is opened before anything trains.

    Args:
        root: The folder.
        model: A model with a timm data configuration; decides size, crop and normalisation.
        progress: Called as files are checked.

    Returns:
        The three parts.

    Raises:
        DataError: A part is missing or empty, the parts differ in their classes, or a file is no image.
    """
    from torchvision.datasets import ImageFolder

    transform = transform_of(model)
    parts: dict[str, ImageFolder] = {}
    for split in SPLITS:
        try:
            parts[split] = ImageFolder(str(Path(root) / split), transform)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"{Path(root) / split}: {error}",
                expected="a folder with one folder of images a class",
                fix=f"lay the images out as {root}/{{train,val,test}}/CLASS/FILE",
            ) from error
        if parts[split].classes != parts["train"].classes:
            differ = sorted(set(parts[split].classes) ^ set(parts["train"].classes))
            raise DataError(f"{Path(root) / split} has other classes than train", got=f"differing in {differ[:5]}")
        check_images([(path, path) for path, _ in parts[split].samples], f"checking {split}", progress)
    return Splits(Path(root).name, parts["train"], parts["val"], parts["test"], classes=len(parts["train"].classes))


def transform_of(model: nn.Module, **changes: Any) -> Callable[[Any], Tensor]:
    """Return the transform of images that a model was made for.

    Args:
        model: A model with a timm data configuration; decides size, crop and normalisation.
        changes: Entries of the configuration to change: `mean`, `std`, `crop_mode`.
    """
    from torchvision.transforms import Compose, Grayscale

    config = {**resolve_model_data_config(model), **changes}
    transform = create_transform(**config, is_training=False)
    made: Callable[[Any], Tensor] = Compose([Grayscale(), transform]) if config["input_size"][0] == 1 else transform
    return made


def check_images(images: Sequence[tuple[str, str]], task: str, progress: Progress) -> None:
    """Open every image.

    Args:
        images: For every image, what to call it in a message, and its path.
        task: What is done, for `progress`.
        progress: Called after each.

    Raises:
        DataError: One is no image.
    """
    from PIL import Image

    for done, (name, path) in enumerate(images, 1):
        try:
            with Image.open(path) as image:
                image.load()
        except Exception as error:  # Pillow's decoders raise whatever they meet
            raise DataError(f"{name} is no readable image", got=str(error), fix="replace or remove the file") from error
        progress(task, done, len(images))

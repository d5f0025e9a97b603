"""Images in memory: given as arrays, or the handwritten digits of scikit-learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...common.aliases import Options
from ...errors import DataError
from .images import data_config
from .splits import Splits, check_classes, cut

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image (ITU-R BT.601)."""

Array = NDArray[np.generic] | Tensor


class ResizedImages(Dataset[tuple[Tensor, Tensor]]):
    """Small images in memory, resized and normalised one batch at a time.

    Args:
        images: Pixels, uint8 or 0 to 1: (count, height, width) in grey, or (count, height, width, channels).
        labels: Class indices (count,).
        config: timm's data configuration of a model: `input_size`, `mean`, `std`.

    Raises:
        DataError: The images have neither one channel nor those of the model.
    """

    def __init__(self, images: Tensor, labels: Tensor, config: Options) -> None:
        self.images = images[:, None] if images.ndim == 3 else images.movedim(-1, 1)
        self.labels = labels
        self.channels, *size = config["input_size"]
        self.size = (size[0], size[1])
        self.mean = torch.tensor(config["mean"]).reshape(-1, 1, 1)
        self.std = torch.tensor(config["std"]).reshape(-1, 1, 1)
        held = self.images.shape[1]
        if held not in (1, self.channels) and (held, self.channels) != (3, 1):
            raise DataError("images", expected=f"1 or {self.channels} channels for this model", got=f"{held}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return several samples at once; `DataLoader` calls this."""
        small = self.images[list(indices)]
        if not small.is_floating_point():
            small = small.float() / 255
        if small.shape[1] > self.channels:
            small = (small * torch.tensor(LUMA).reshape(-1, 1, 1)).sum(1, keepdim=True)
        shrinks = small.shape[2] > self.size[0] or small.shape[3] > self.size[1]
        large = nn.functional.interpolate(small, self.size, mode="bilinear", align_corners=False, antialias=shrinks)
        x = (large.expand(-1, self.channels, -1, -1) - self.mean) / self.std
        return list(zip(x, self.labels[list(indices)], strict=True))


def arrays(
    images: Array,
    labels: Array,
    model: nn.Module,
    *,
    name: str = "arrays",
    train: int | None = 800,
    val: int | None = 200,
    test: int | None = None,
    classes: int | None = None,
    seed: int = 0,
    imagenet_statistics: bool = False,
) -> Splits:
    """Split images in memory into three splits, shuffled once, and resize and normalise them for a model.

    Args:
        images: uint8, or numbers from 0 to 1: (count, height, width) in grey, or (count, height, width, channels)
            with 1 channel, 3 channels or those of the model.
        labels: Class indices (count,).
        model: A model with a timm data configuration, which sets size, channels and normalisation.
        name: Name of the data in results.
        train: Number of training images.
        val: Number of validation images.
        test: Number of test images. One of the three may be None, which takes all that remain.
        classes: Number of classes; default: the highest label plus one.
        seed: Seed of the shuffle.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation instead of the model's.

    Returns:
        The three splits.

    Raises:
        DataError: The arrays are not images and labels, or the sizes or classes do not fit them.

    Examples:
        >>> import numpy as np
        >>> from tensorfact.lab import arrays, nano
        >>> random = np.random.default_rng(0)
        >>> images, labels = random.random((30, 12, 12, 3)), random.integers(0, 4, 30)
        >>> arrays(images, labels, nano(), train=10, val=5).sizes
        {'train': 10, 'val': 5, 'test': 15}
    """
    check_classes(classes)
    config = data_config(model, imagenet_statistics=imagenet_statistics)
    pixels, targets = _pixels(_tensor(images, name), config["input_size"][0]), _targets(_tensor(labels, name), classes)
    if len(pixels) != len(targets):
        raise DataError(name, expected=f"a label for each of {len(pixels)} images", got=f"{len(targets)} labels")
    drawn = cut(len(targets), (train, val, test), seed=seed, what=name)
    parts = [ResizedImages(pixels[part], targets[part], config) for part in drawn]
    return Splits(name, parts[0], parts[1], parts[2], classes or int(targets.max()) + 1)


def digits(
    model: nn.Module,
    *,
    train: int | None = 800,
    val: int | None = 200,
    test: int | None = None,
    imagenet_statistics: bool = False,
) -> Splits:
    """Return scikit-learn's 1,797 handwritten digits, resized and normalised for a model.

    The digits are 8 x 8 grey images of the UCI repository (Alpaydin and Kaynak 1998), shuffled once.

    Args:
        model: A model with a timm data configuration, which sets size, channels and normalisation.
        train: Number of training images.
        val: Number of validation images.
        test: Number of test images. One of the three may be None, which takes all that remain.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation instead of the model's.

    Returns:
        The three splits, with ten classes named "0" to "9".

    Raises:
        DataError: A size is below 1, or the sizes exceed 1,797.

    Examples:
        >>> from tensorfact.lab import digits, nano
        >>> digits(nano()).sizes
        {'train': 800, 'val': 200, 'test': 797}
    """
    pixels, labels = stored_digits()
    found = arrays(
        pixels,
        labels,
        model,
        name="digits",
        train=train,
        val=val,
        test=test,
        imagenet_statistics=imagenet_statistics,
    )
    return dataclasses.replace(found, class_names=tuple(map(str, range(found.classes))))


def stored_digits() -> tuple[Tensor, Tensor]:
    """Return the images of scikit-learn's digits, 0 to 1: (1,797, 8, 8), and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).reshape(-1, 8, 8) / 16, torch.from_numpy(labels)


def _tensor(array: Array, name: str) -> Tensor:
    """Return an array as a tensor on the CPU."""
    try:
        return array.detach().cpu() if isinstance(array, Tensor) else torch.from_numpy(np.array(array))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{name}: cannot convert an array to a tensor", expected="a rectangular array of numbers", got=str(error)
        ) from error


def _pixels(images: Tensor, channels: int) -> Tensor:
    """Return images as uint8 or as float32 from 0 to 1."""
    taken = sorted({1, 3, channels})
    spelled = " or ".join(map(str, taken))
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in taken) or not images.numel():
        raise DataError(
            "images",
            expected=f"(count, height, width), or (count, height, width, channels) with {spelled} channels",
            got=str(tuple(images.shape)),
            cause="the channels come before the height, as in torch",
            fix="pass np.moveaxis(images, 1, -1)",
        )
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise DataError("images", expected="uint8, or numbers from 0 to 1", got=str(images.dtype))
    if strange := int((~images.isfinite()).sum()):
        raise DataError("images", expected="numbers from 0 to 1", got=f"{strange} NaN or infinite pixels")
    if not bool(((images >= 0) & (images <= 1)).all()):
        low, high = float(images.min()), float(images.max())
        raise DataError("images", expected="numbers from 0 to 1", got=f"{low:g} to {high:g}", fix="pass images / 255")
    return images.float()


def _targets(labels: Tensor, classes: int | None) -> Tensor:
    """Return labels as class indices."""
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise DataError("labels", expected="class indices (count,)", got=f"{tuple(labels.shape)} of {labels.dtype}")
    found = labels.long()
    if len(found) and (int(found.min()) < 0 or (classes is not None and int(found.max()) >= classes)):
        allowed = "at least 0" if classes is None else f"0 to {classes - 1}"
        raise DataError("labels", expected=allowed, got=f"{int(found.min())} to {int(found.max())}")
    return found

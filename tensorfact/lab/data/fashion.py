"""Fashion-MNIST from its gzipped IDX files, as in Debian's package dataset-fashion-mnist."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...common.checks import AnyPath, file_path
from ...errors import DataError
from .images import data_config, refuse_pipe
from .in_memory import ResizedImages
from .splits import Splits, cut

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Folder of Debian's package dataset-fashion-mnist."""
VARIABLE = "TENSORFACT_FASHION_MNIST"
NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
"""Names of the classes, by label."""
SIZE, CLASSES, MOST = 28, len(NAMES), 60_000


def fashion_mnist(
    model: nn.Module,
    *,
    root: AnyPath | None = None,
    train: int = 800,
    val: int = 200,
    test: int = 10_000,
    seed: int = 0,
    imagenet_statistics: bool = False,
) -> Splits:
    """Return Fashion-MNIST: 28 x 28 grey images of clothes, in ten classes.

    By default 800 of the 60,000 training images are used for training, 200 for validation, and all 10,000 test images
    for the test. `nano()` was pretrained on these 60,000 images, so fine-tuning it here is not transfer learning.

    Args:
        model: A model with a timm data configuration, which sets size, channels and normalisation.
        root: Folder of the four files `{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz`; default: the environment
            variable `TENSORFACT_FASHION_MNIST`, else the folder of Debian's package dataset-fashion-mnist.
        train: Number of training images.
        val: Number of validation images, drawn from the 60,000 training images.
        test: Number of test images.
        seed: Seed of the random selection.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation instead of the model's.

    Returns:
        The three splits, with ten classes.

    Raises:
        DataError: A file is missing or damaged, or a size is below 1 or above the number of images.

    Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, 2017 (arXiv:1708.07747).
    """
    given = os.environ.get(VARIABLE) or DEBIAN if root is None else root
    folder = file_path(given, "fashion_mnist: root", DataError, example="fashion-mnist")
    config = data_config(model, imagenet_statistics=imagenet_statistics)
    parts = []
    for name, sizes in (("train", (train, val)), ("t10k", (test,))):
        images = _idx(folder / f"{name}-images-idx3-ubyte.gz", (SIZE, SIZE))
        labels = _idx(folder / f"{name}-labels-idx1-ubyte.gz", ()).long()
        if len(images) != len(labels) or int(labels.max()) >= CLASSES:
            raise DataError(
                f"{folder / name}-labels-idx1-ubyte.gz",
                expected=f"{len(images)} labels from 0 to {CLASSES - 1}",
                got=f"{len(labels)} up to {int(labels.max())}",
                fix="download the files again",
            )
        drawn = cut(len(labels), sizes, seed=seed, what=f"fashion-mnist, {name}", rest=False)
        parts += [ResizedImages(images[part], labels[part], config) for part in drawn]
    return Splits("fashion-mnist", parts[0], parts[1], parts[2], CLASSES, class_names=NAMES)


def _idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Read a gzipped IDX file of bytes: (count, *shape), uint8.

    Args:
        path: The IDX file.
        shape: Shape of one item, as the file's header must state it.
    """
    magic = bytes([0, 0, 0x08, 1 + len(shape)])  # 0x08 is unsigned bytes, then the number of dimensions
    length = 4 * (2 + len(shape))
    try:
        refuse_pipe(path)
        with gzip.open(path) as file:
            header = file.read(length)
            if len(header) < length or header[:4] != magic:
                raise DataError(
                    f"{path} is not an IDX file of {len(shape) + 1} dimensions",
                    expected=f"a header that begins with {magic.hex()}",
                    got=header[:4].hex() or "an empty file",
                )
            count, *sizes = struct.unpack(f">{1 + len(shape)}I", header[4:])
            if tuple(sizes) != shape or not 1 <= count <= MOST:
                raise DataError(
                    f"{path} has the wrong shape",
                    expected=f"1 to {MOST} items of shape {shape}",
                    got=f"{count} of shape {tuple(sizes)}",
                )
            wanted = int(count * np.prod(shape, dtype=int))
            data = file.read(wanted + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read",
            got=str(error),
            fix=f"apt install dataset-fashion-mnist, or pass root= or set {VARIABLE} to the folder of the files",
        ) from error
    if len(data) != wanted:
        raise DataError(
            f"{path} is damaged",
            expected=f"{wanted} bytes of data, as its header states",
            got="more" if len(data) > wanted else str(len(data)),
            fix="download the file again",
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(count, *shape).copy())

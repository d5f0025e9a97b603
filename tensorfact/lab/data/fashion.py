"""Fashion-MNIST from its gzipped IDX files, which Debian packages."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...common.checks import AnyPath
from ...errors import DataError
from .images import data_config
from .in_memory import ResizedImages
from .splits import Splits, cut

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist keeps the files."""
VARIABLE = "TENSORFACT_FASHION_MNIST"
SIZE, CLASSES, MOST = 28, 10, 60_000


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
    """Return Fashion-MNIST, 28 x 28 grey images of clothes: 800 and 200 of its 60,000 by default, and its test images.

    `nano()` was pretrained on all 60,000: on it this is no transfer.

    Args:
        model: A model with a timm data configuration; decides size, channels and normalisation.
        root: The folder of the four files `{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz`; by default the
            environment's `TENSORFACT_FASHION_MNIST`, and without one that of Debian's package dataset-fashion-mnist.
        train: How many to train on.
        val: How many to choose by, drawn from the same file.
        test: How many of the test images to report on.
        seed: Seed of what is drawn.
        imagenet_statistics: Normalise by ImageNet's mean and deviation instead of the model's own.

    Returns:
        The three parts, ten classes.

    Raises:
        DataError: A file that is missing or not what its header says, or a size that is none or above what there is.

    Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, 2017 (arXiv:1708.07747).
    """
    folder = Path(root or os.environ.get(VARIABLE) or DEBIAN)
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
            )
        drawn = cut(len(labels), sizes, seed=seed, what=f"fashion-mnist, {name}", rest=False)
        parts += [ResizedImages(images[part], labels[part], config) for part in drawn]
    return Splits("fashion-mnist", parts[0], parts[1], parts[2], CLASSES)


def _idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Read a gzipped IDX file of bytes: (count, *shape), uint8.

    Args:
        path: The file.
        shape: The sizes it must state after its count.
    """
    magic = bytes([0, 0, 0x08, 1 + len(shape)])  # 0x08 is unsigned bytes, then the number of dimensions
    length = 4 * (2 + len(shape))
    try:
        with gzip.open(path) as file:
            header = file.read(length)
            if len(header) < length or header[:4] != magic:
                raise DataError(f"{path}: its header", expected=magic.hex(), got=header[:4].hex() or "nothing")
            count, *sizes = struct.unpack(f">{1 + len(shape)}I", header[4:])
            if tuple(sizes) != shape or not 1 <= count <= MOST:
                raise DataError(f"{path}: its sizes", expected=str(("1 to 60000", *shape)), got=str((count, *sizes)))
            wanted = int(count * np.prod(shape, dtype=int))
            data = file.read(wanted + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read",
            got=str(error),
            fix=f"install Debian's package dataset-fashion-mnist, or pass root= or set {VARIABLE} to the files' folder",
        ) from error
    if len(data) != wanted:
        more = "more" if len(data) > wanted else str(len(data))
        raise DataError(f"{path}: its data", expected=f"{wanted} bytes, as its header says", got=more)
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(count, *shape).copy())

"""Fashion-MNIST from its gzipped IDX files, as in Debian's package dataset-fashion-mnist."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ...common.checks import AnyPath, file_path
from ...errors import DataError
from ...storage.writing import make_folder, write_folder
from ..fetching import Package, cache
from .images import data_config, refuse_pipe
from .in_memory import ResizedImages
from .splits import Splits, cut

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Folder of Debian's package dataset-fashion-mnist."""
VARIABLE = "TENSORFACT_FASHION_MNIST"
NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
"""Names of the classes, by label."""
PACKAGE = Package(
    "dataset-fashion-mnist=0.0~git20200523.55506a9-1",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    ("usr/share/datasets/fashion-mnist/*.gz",),
    "apt",
)
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
            variable `TENSORFACT_FASHION_MNIST`, else the folder of Debian's package dataset-fashion-mnist, else that
            of `tensorfact fetch fashion-mnist`.
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
    config = data_config(model, imagenet_statistics=imagenet_statistics)
    parts = []
    parts_of: dict[Literal["train", "t10k"], tuple[int, ...]] = {"train": (train, val), "t10k": (test,)}
    for name, sizes in parts_of.items():
        images, labels = stored_fashion(name, root)
        drawn = cut(len(labels), sizes, seed=seed, what=f"fashion-mnist, {name}", rest=False)
        parts += [ResizedImages(images[part], labels[part], config) for part in drawn]
    return Splits("fashion-mnist", parts[0], parts[1], parts[2], CLASSES, class_names=NAMES)


def fetch_fashion_mnist() -> Path:
    """Download Debian's package (31 MB) with apt-get into the cache; root rights are not needed.

    Nothing is downloaded if the files are on this machine.

    Returns:
        The folder of the files.

    Raises:
        DataError: The package cannot be downloaded, or is another one.
        CheckpointError: The files cannot be written.
    """
    folder = default_folder()
    if not folder.is_dir():
        fix = f"copy the four files of github.com/zalandoresearch/fashion-mnist, and set {VARIABLE} to their folder"
        make_folder(folder.parent)
        write_folder(folder, {Path(path).name: contents for path, contents in PACKAGE.files(fix).items()})
    return folder


def default_folder() -> Path:
    """Return the folder of the files: that of the environment variable, of Debian's package, or one in the cache."""
    own = os.environ.get(VARIABLE)
    return Path(own) if own else DEBIAN if DEBIAN.is_dir() else cache() / "fashion-mnist"


def stored_fashion(part: Literal["train", "t10k"], root: AnyPath | None = None) -> tuple[Tensor, Tensor]:
    """Return the training or the test images (count, 28, 28) and their labels.

    Args:
        part: "train" for the 60,000 training images, "t10k" for the 10,000 test images.
        root: Folder of the files; default: `default_folder`.

    Raises:
        DataError: A file is missing or damaged.
    """
    given = default_folder() if root is None else root
    folder = file_path(given, "fashion_mnist: root", DataError, example="fashion-mnist")
    images = _idx(folder / f"{part}-images-idx3-ubyte.gz", (SIZE, SIZE))
    labels = _idx(folder / f"{part}-labels-idx1-ubyte.gz", ()).long()
    if len(images) != len(labels) or int(labels.max()) >= CLASSES:
        raise DataError(
            f"{folder / part}-labels-idx1-ubyte.gz",
            expected=f"{len(images)} labels from 0 to {CLASSES - 1}",
            got=f"{len(labels)} up to {int(labels.max())}",
            fix="download the files again",
        )
    return images, labels


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
            fix=f"tensorfact fetch fashion-mnist, or pass root= or set {VARIABLE} to the folder of the files",
        ) from error
    if len(data) != wanted:
        raise DataError(
            f"{path} is damaged",
            expected=f"{wanted} bytes of data, as its header states",
            got="more" if len(data) > wanted else str(len(data)),
            fix="download the file again",
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(count, *shape).copy())

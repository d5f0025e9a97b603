"""Images of a task before they are split, each with a digest that names it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...fetching import CachedFile

DIGITS = 8
"""Hexadecimal digits of a digest."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """Labelled images, from which a task takes those of its lists.

    Args:
        images: uint8: (count, height, width) in grey, or (count, height, width, 3).
        labels: Class indices (count,).
        digests: A digest of each image (count,), the same on every machine.
        test: Which of the images are for the test only (count,); None: any of them may be.
    """

    images: Tensor
    labels: Tensor
    digests: Tensor
    test: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class RealTask:
    """A task of a few thousand real or rendered images that needs no hub.

    Args:
        name: Name of the task, without the prefix `real:`.
        classes: Name of every class.
        origin: What the images are, and where they come from.
        licence: Licence of the images.
        pool: Returns the images on this machine.
        fetch: Downloads the images if they are not there; None if nothing is downloaded.
    """

    name: str
    classes: tuple[str, ...]
    origin: str
    licence: str
    pool: Callable[[], Pool]
    fetch: Callable[[], object] | None = None


def digest(*contents: bytes) -> int:
    """Return the first digits of the SHA-256 of some bytes, as a number.

    Args:
        contents: The bytes, such as those of a file.

    Examples:
        >>> f"{digest(b'a', b'b'):08x}"
        'fb8e20fc'
    """
    return int(hashlib.sha256(b"".join(contents)).hexdigest()[:DIGITS], 16)


def pixel_digests(images: Tensor) -> Tensor:
    """Return the digest of the pixels of each image: (count,).

    Args:
        images: uint8: (count, ...).
    """
    return torch.tensor([digest(image.tobytes()) for image in images.numpy()])


def stored_pool(source: CachedFile) -> Pool:
    """Return the images in a file of the cache.

    Args:
        source: The file, written by `packed_pool`.

    Raises:
        DataError: The file is not on this machine.
        CheckpointError: It is damaged.
    """
    found = source.read("images", "labels", "digests")
    return Pool(found["images"], found["labels"], found["digests"], found.get("test"))


def packed_pool(
    images: Iterable[Image.Image], labels: Iterable[int], digests: Iterable[int], test: Iterable[bool] | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a file that `stored_pool` reads.

    Args:
        images: Images of one size and mode.
        labels: Class index of each.
        digests: Digest of each.
        test: Whether each is for the test only; None: any of them may be.
    """
    found = {
        "images": torch.from_numpy(np.stack([np.asarray(image) for image in images])),
        "labels": torch.tensor(list(labels)),
        "digests": torch.tensor(list(digests)),
    }
    return found if test is None else {**found, "test": torch.tensor(list(test))}

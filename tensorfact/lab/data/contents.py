"""Digests of data sets, by which a folder of runs notices that its data has changed."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from ..training import Samples
from .images import ListedImages, SourceImages
from .in_memory import ResizedImages

SAMPLED = 32
"""Number of images of a split that are read."""


def contents_digest(samples: Samples) -> str:
    """Return a digest of images before their preprocessing, and of their labels.

    Of images that are read on access, at most 32 are read, spread over the whole set.

    Args:
        samples: Samples (input, class index).
    """
    count = len(samples)  # type: ignore[arg-type]
    found = hashlib.sha256(str(count).encode())
    if isinstance(samples, ResizedImages):
        found.update(samples.images.contiguous().numpy().tobytes())
        found.update(samples.labels.numpy().tobytes())
        return found.hexdigest()[:16]
    for at in range(0, count, max(1, -(-count // SAMPLED))):
        pixels, label = _read(samples, at)
        found.update(pixels + f" {label} ".encode())
    return found.hexdigest()[:16]


def _read(samples: Any, index: int) -> tuple[bytes, int]:
    """Return the pixels of an image and its label."""
    if isinstance(samples, ListedImages):
        file, label = samples.samples[index]
        return samples.opener(file).tobytes(), label
    if isinstance(samples, SourceImages):
        image, label = samples.read(index)
        return image.tobytes(), label
    x, y = samples[index]
    return x.numpy().tobytes() if isinstance(x, Tensor) else repr(x).encode(), int(y)

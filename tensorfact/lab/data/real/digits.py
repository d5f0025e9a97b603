"""Handwritten digits of scikit-learn."""

from __future__ import annotations

import torch

from ..in_memory import stored_digits
from .pool import Pool, RealTask, pixel_digests


def pool() -> Pool:
    """Return the 1,797 images, 8 x 8, as bytes."""
    pixels, labels = stored_digits()
    images = (pixels * 255).round().to(torch.uint8)
    return Pool(images, labels, pixel_digests(images))


TASK = RealTask(
    "digits",
    tuple(map(str, range(10))),
    "1,797 handwritten digits, 8 x 8 in grey, of the UCI repository (scikit-learn)",
    "CC-BY-4.0 (UCI), BSD-3 (scikit-learn)",
    pool,
)

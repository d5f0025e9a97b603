"""Data in three parts."""

from __future__ import annotations

import dataclasses

from ..training import Samples

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Splits:
    """Data in three parts: to train on, to choose by, to report on.

    Args:
        name: What it is called in results.
        train: Samples to train on.
        val: Samples that choose epochs; the only ones that choose anything.
        test: Samples whose accuracy is reported.
        classes: How many classes there are.
    """

    name: str
    train: Samples
    val: Samples
    test: Samples
    classes: int

    @property
    def sizes(self) -> dict[str, int]:
        """The number of samples in each part."""
        return {split: len(getattr(self, split)) for split in SPLITS}

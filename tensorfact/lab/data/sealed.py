"""Test samples that can be read once, after training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from ...errors import DataError
from ..training import Samples
from .splits import fetch


class Sealed(Dataset[Any]):
    """Samples that raise when they are read while sealed, or a second time after they were opened.

    A run seals its test samples before it trains, so that nothing of it can choose by them: neither an epoch, nor a
    method that searches, nor a callback.

    Args:
        samples: The samples.

    Examples:
        >>> sealed = Sealed([(0.5, 1), (0.25, 0)])
        >>> try:
        ...     sealed[0]
        ... except DataError:
        ...     print("sealed")
        sealed
        >>> sealed.open()
        >>> [sealed[0], sealed[1]]
        [(0.5, 1), (0.25, 0)]
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._unread: set[int] = set()

    def open(self) -> None:
        """Allow every sample to be read once."""
        self._unread = set(range(len(self)))

    def __len__(self) -> int:
        return len(self._samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples at once; `DataLoader` calls this."""
        if not self._unread.issuperset(indices):
            raise DataError(
                "the test samples were read before the training ended, or twice",
                cause="a callback or a method that evaluates on splits.test",
                fix="evaluate on splits.val",
            )
        self._unread.difference_update(indices)
        return fetch(self._samples, list(indices))

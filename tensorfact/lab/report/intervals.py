"""Confidence intervals over seeds: of an accuracy, and of the paired difference between two methods."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from scipy.stats import t as student

from ..sweep import overall_mean
from .summary import RowSummary

LEVEL = 0.95
"""Confidence level of every interval."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Args:
        mean: Arithmetic mean.
        half: Half the width of the interval; None for a single value.
    """

    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Return the mean of independent values, one per seed, with Student's interval.

        Args:
            values: The values, at least one.

        Examples:
            >>> found = Interval.of([0.90, 0.92, 0.94])
            >>> round(found.mean, 2), round(found.half, 3)
            (0.92, 0.05)
        """
        count = len(values)
        if count < 2:
            return cls(statistics.fmean(values), None)
        factor = float(student.ppf((1 + LEVEL) / 2, count - 1))
        return cls(statistics.fmean(values), factor * statistics.stdev(values) / count**0.5)


def accuracy(row: RowSummary, task: str | None = None) -> Interval | None:
    """Return the test accuracy of a row; None if a run is missing or failed.

    Args:
        row: The row.
        task: The task; None: the mean over tasks, which is taken for each seed.
    """
    found = _by_seed(row, task)
    return Interval.of(list(found.values())) if found else None


def difference(row: RowSummary, other: RowSummary, task: str | None = None) -> Interval | None:
    """Return how much higher the test accuracy of a row is than that of another, paired by seed.

    Two runs of one seed share the order of samples, the head at the start and the test images; their difference varies
    less than the accuracies do.

    Args:
        row: The row.
        other: The row that is subtracted.
        task: The task; None: the mean over tasks, which is taken for each seed.

    Returns:
        The mean difference, 0 to 1, with its interval over seeds; None if the rows share no finished seed.
    """
    first, second = _by_seed(row, task), _by_seed(other, task)
    seeds = [seed for seed in first if seed in second]
    return Interval.of([first[seed] - second[seed] for seed in seeds]) if seeds else None


def _by_seed(row: RowSummary, task: str | None) -> dict[int, float]:
    """Return the accuracy by seed, for the seeds that are finished on the task or on all tasks."""
    cells = [cell for cell in row.cells if task in (None, cell.task)]
    if not cells or any(cell.state != "done" for cell in cells):
        return {}
    seeds = [seed for seed in cells[0].by_seed if all(seed in cell.by_seed for cell in cells)]
    return {seed: overall_mean({cell.task: cell.by_seed[seed] for cell in cells}) for seed in seeds}

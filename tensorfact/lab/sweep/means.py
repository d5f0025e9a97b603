"""Means over tasks as VTAB defines them: the mean of the means of the groups of tasks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from ...errors import DataError
from ..data import task_info


def task_group(task: str) -> str:
    """Return the group of a task; `other` if it has none.

    Args:
        task: Name of the task, such as `vtab:cifar`.

    Examples:
        >>> task_group("vtab:cifar"), task_group("few-shot:food-101:1:0"), task_group("digits")
        ('natural', 'few-shot', 'other')
    """
    try:
        return task_info(task).group or "other"
    except DataError:  # images in a folder that was there when the sweep ran
        return "other"


def group_means(values: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each group of tasks.

    Args:
        values: One number per task, by name.

    Examples:
        >>> group_means({"vtab:cifar": 0.5, "vtab:svhn": 0.7, "vtab:dmlab": 0.4})
        {'natural': 0.6, 'structured': 0.4}
    """
    groups: dict[str, list[float]] = {}
    for task, value in values.items():
        groups.setdefault(task_group(task), []).append(value)
    return {group: statistics.fmean(each) for group, each in groups.items()}


def overall_mean(values: Mapping[str, float]) -> float:
    """Return the mean of the group means, as VTAB defines it.

    Args:
        values: One number per task, by name; at least one.

    Examples:
        >>> overall_mean({"vtab:cifar": 0.5, "vtab:svhn": 0.7, "vtab:dmlab": 0.4})
        0.5

    Source: X. Zhai et al., A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark.
    """
    return statistics.fmean(group_means(values).values())

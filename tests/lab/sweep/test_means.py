"""Means over tasks are means of group means."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.lab.data import VTAB
from tensorfact.lab.sweep import group_means, overall_mean, task_group

TASKS = st.sampled_from([*(f"vtab:{name}" for name in VTAB), "few-shot:food-101:1:0", "digits"])


def test_the_published_count_of_deep_prompts_is_a_mean_of_groups() -> None:
    """With the prompt lengths of VPT-Deep's authors the mean is 0.53 M."""
    lengths = [10, 10, 10, 1, 1, 50, 5, 100, 100, 10, 1, 50, 200, 100, 50, 10, 50, 200, 200]
    counts = {f"vtab:{name}": 12 * 768 * length for name, length in zip(VTAB, lengths, strict=True)}
    assert round(overall_mean(counts) / 1e6, 2) == 0.53


def test_images_that_were_moved_since_the_sweep_are_a_task_of_no_group() -> None:
    assert [task_group(task) for task in ("photos", "photos/", "folder:photos")] == ["other"] * 3


@given(st.dictionaries(TASKS, st.floats(0, 1), min_size=1))
def test_an_overall_mean_lies_between(values: dict[str, float]) -> None:
    groups = group_means(values)
    assert set(groups) == set(map(task_group, values))
    assert min(values.values()) - 1e-12 <= overall_mean(values) <= max(values.values()) + 1e-12
    if len(groups) == 1:
        assert overall_mean(values) == pytest.approx(statistics.fmean(values.values()))

"""Published lengths of prompts give the sizes that the paper prints."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import Literal

import pytest

from tensorfact.errors import DataError
from tensorfact.lab.baselines import PromptTuning, prompt_length
from tensorfact.lab.data import VTAB
from tensorfact.lab.models import model_shapes
from tests.helpers import refused

SHALLOW: tuple[float, ...] = (0.18, 0.10, 0.04, 0.27, 0.08, 0.19, 0.36, 0.01, 0.05, 0.09, 0.01)
SHALLOW += (0.10, 0.18, 0.09, 0.09, 0.10, 0.10, 0.19, 0.19)
DEEP: tuple[float, ...] = (0.20, 0.20, 0.15, 0.10, 0.04, 0.54, 0.41, 1.06, 1.07, 0.15, 0.02)
DEEP += (0.54, 2.11, 1.07, 0.54, 0.12, 0.55, 2.12, 2.11)
GROUPS = ("natural", "specialized", "structured")


def count(family: Literal["vit", "swin"], task: str, deep: bool) -> int:
    name = {"vit": "vit_base_patch16_224", "swin": "swin_base_patch4_window7_224"}[family]
    method = PromptTuning(prompt_length(task, deep=deep, family=family), deep)
    return method.attach(model_shapes(name), seed=0).num_parameters


def mean_size(counts: Iterable[tuple[str, int]]) -> float:
    """Return what a table prints of counts by task: millions, a mean of the groups' means, all to three places."""
    by_task = dict(counts)
    means = [fmean(n for name, n in by_task.items() if VTAB[name].group == group) / 1e6 for group in GROUPS]
    return round(fmean(round(mean, 3) for mean in means), 3)


@pytest.mark.parametrize(("deep", "published"), [(False, 0.063), (True, 0.531)])
def test_the_papers_lengths_have_the_published_mean_size(deep: bool, published: float) -> None:
    per_token = count("vit", "cifar", deep) // prompt_length("cifar", deep=deep)
    assert per_token == 768 * (12 if deep else 1)
    assert mean_size((name, per_token * prompt_length(name, deep=deep)) for name in VTAB) == published


@pytest.mark.parametrize(("deep", "shares"), [(False, SHALLOW), (True, DEEP)])
def test_the_papers_lengths_give_the_shares_that_the_paper_prints(deep: bool, shares: tuple[float, ...]) -> None:
    """Numbers that train, head included, in percent of all, for every task on ViT-B/16."""
    for (name, task), share in zip(VTAB.items(), shares, strict=True):
        assert task.classes is not None
        trained = task.classes * 769 + prompt_length(name, deep=deep) * 768 * (12 if deep else 1)
        assert round(100 * trained / (85_798_656 + trained), 2) == share, name


@pytest.mark.parametrize(("deep", "per_token", "published"), [(False, 128, 0.003), (True, 12_032, 0.162)])
def test_the_lengths_on_swin_have_the_published_mean_size(deep: bool, per_token: int, published: float) -> None:
    lengths = {name: prompt_length(name, deep=deep, family="swin") for name in VTAB}
    assert count("swin", "svhn", deep) == lengths["svhn"] * per_token
    assert mean_size((name, length * per_token) for name, length in lengths.items()) == published


def test_a_task_or_family_that_is_none_is_refused() -> None:
    with refused(DataError, "did you mean 'cifar'", fix=False):
        prompt_length("cifra", deep=True)
    with refused(DataError, "family", "'resnet'", fix=False):
        prompt_length("cifar", deep=True, family="resnet")  # type: ignore[arg-type]
    with refused(DataError, "deep", 2, fix=False):
        prompt_length("cifar", deep=2)  # type: ignore[arg-type]

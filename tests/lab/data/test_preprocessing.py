"""A description of preprocessing is what no image contradicts."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from tensorfact.errors import DataError
from tensorfact.lab.data.images import transform_from
from tests.helpers import refused

CONFIG: dict[str, Any] = {"input_size": [3, 16, 16], "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_size": [3, 16]},
        {"input_size": [3, 10**9, 16]},
        {"input_size": [3, -1, 16]},
        {"input_size": "3x16x16"},
        {"input_size": [2, 16, 16]},
        {"mean": ["a"]},
        {"mean": [0.5]},
        {"mean": None},
        {"std": [0, 0, 0]},
        {"std": [0.5, float("nan"), 0.5]},
        {"std": [0.5, -0.5, 0.5]},
        {"crop_pct": 0},
        {"crop_pct": -1},
        {"crop_pct": 1e-9},
        {"crop_pct": 1e300},
        {"crop_pct": "0.9"},
        {"crop_mode": "foo"},
        {"crop_mode": ["center"]},
        {"interpolation": "nothing"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_damaged_description_of_the_preprocessing_is_refused(wrong: dict[str, Any]) -> None:
    picture = Image.new("RGB", (20, 30))
    assert transform_from(CONFIG)(picture).shape == (3, 16, 16)
    with refused(DataError, "the description of the preprocessing is damaged: "):
        transform_from(CONFIG | wrong)


@pytest.mark.parametrize("name", ["input_size", "mean", "std"])
def test_an_entry_that_is_missing_is_named(name: str) -> None:
    with refused(DataError, f"got {name} None"):
        transform_from({key: value for key, value in CONFIG.items() if key != name})


def test_every_crop_of_timm_is_described() -> None:
    for mode in (None, "center", "squash", "border"):
        found = transform_from(CONFIG | {"crop_mode": mode, "crop_pct": 0.5})(Image.new("RGB", (20, 30)))
        assert found.shape == (3, 16, 16)

"""Argument checks: the values that they return, and the errors that they raise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from tensorfact.common.checks import callback, file_path, finite_number, of_type, one_of, probability, whole_number
from tensorfact.errors import AdaptError, RankError
from tests.helpers import refused


@pytest.mark.parametrize("value", [3, numpy.int64(3), torch.tensor(3)])
def test_what_counts_as_an_int_is_one(value: Any) -> None:
    number = whole_number(value, "explain: tokens", AdaptError)
    assert number == 3
    assert type(number) is int


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "3", None, [3], torch.tensor([3, 4]), torch.tensor(3.0), math.nan])
def test_what_is_no_int_of_at_least_one_is_refused(value: Any) -> None:
    with refused(RankError, "CP: rank", "an int of at least 1", "Fix: rank=4."):
        whole_number(value, "CP: rank", RankError, example=4)


def test_the_least_value_is_part_of_the_message() -> None:
    assert whole_number(0, "fit: seed", AdaptError, least=0) == 0
    with refused(AdaptError, "an int of at least 2", "got 1", "Fix: workers=2."):
        whole_number(1, "pool: workers", AdaptError, least=2)


@pytest.mark.parametrize("value", [1, 1.0, numpy.float32(1), torch.tensor(1.0), torch.tensor([[1]])])
def test_what_counts_as_a_number_is_a_float(value: Any) -> None:
    number = finite_number(value, "adapt: scale", AdaptError)
    assert number == 1.0
    assert type(number) is float


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", None, [1.0], 1j, torch.ones(2), 10**400])
def test_what_is_no_finite_number_is_refused(value: Any) -> None:
    with refused(AdaptError, "adapt: scale", "a finite number", "Fix: scale=1.0."):
        finite_number(value, "adapt: scale", AdaptError)


def test_a_number_may_have_to_fit() -> None:
    with refused(AdaptError, "a positive number", "got 0.0"):
        finite_number(0.0, "adapt: scale", AdaptError, fits=lambda v: v > 0, expected="a positive number")


def test_a_probability_leaves_something() -> None:
    assert [probability(p, "adapt: dropout", AdaptError) for p in (0, 0.5)] == [0.0, 0.5]
    for value in (1, 1.0, -0.1, math.nan, "0.1"):
        with refused(AdaptError, "0 <= dropout < 1", "Fix: dropout=0.1."):
            probability(value, "adapt: dropout", AdaptError)


def test_a_name_is_one_of_several() -> None:
    assert one_of("weight", ["auto", "weight"], "adapt: route", AdaptError) == "weight"
    with refused(AdaptError, "expected 'auto', 'activation' or 'weight'", "did you mean 'weight'? Fix: route='auto'."):
        one_of("wieght", ["auto", "activation", "weight"], "adapt: route", AdaptError)
    for value in (None, 3, ["auto"]):
        with refused(AdaptError, "expected 'auto', got"):
            one_of(value, ["auto"], "adapt: route", AdaptError)


def test_a_path_is_a_str_or_a_path(tmp_path: Path) -> None:
    for path in (tmp_path, str(tmp_path)):
        assert file_path(path, "save: path", AdaptError) == tmp_path
    for value in ("", "a\0b", b"bytes", None, 3):
        with refused(AdaptError, "a str or an os.PathLike"):
            file_path(value, "save: path", AdaptError)


@pytest.mark.parametrize("value", ["x" * 256, f"folder/{'é' * 200}", "a/" * 3000, "\ud800", Path("y" * 300)])
def test_a_path_that_no_system_has_is_refused(value: Any) -> None:
    with refused(AdaptError, "a path"):
        file_path(value, "save: path", AdaptError)


@pytest.mark.parametrize("value", [None, 5, "a", [1], torch.ones(2, 2), numpy.ones((3, 3))])
def test_a_value_is_of_a_type(value: Any) -> None:
    with refused(AdaptError, "a dict", "Fix: scale={}"):
        of_type(value, dict, "adapt: scale", AdaptError, expected="a dict", example="{}")
    with refused(AdaptError, "a function", "Fix: progress=print"):
        callback(value, "extract: progress", AdaptError)
    assert of_type({}, dict, "adapt: scale", AdaptError, expected="a dict", example="{}") == {}
    assert callback(print, "extract: progress", AdaptError) is print


class Called:
    def __call__(self, task: str, done: int, total: int) -> None:
        return


@pytest.mark.parametrize(
    "value", [lambda: 0, lambda a, b: 0, lambda a, b, c, d: 0, torch.nn.Linear(1, 1), dict, Called]
)
def test_a_callback_takes_the_arguments_of_a_call(value: Any) -> None:
    with refused(AdaptError, "a function of (task, done, total)", "Fix: progress=print"):
        callback(value, "extract: progress", AdaptError)


@pytest.mark.parametrize(
    "value", [print, Called(), max, lambda *any: 0, lambda a, b, c, d=1: 0, torch.nn.Bilinear(1, 1, 1)]
)
def test_a_callback_may_take_more(value: Any) -> None:
    takes = "first, second" if isinstance(value, torch.nn.Module) else "task, done, total"
    assert callback(value, "extract: progress", AdaptError, takes=takes) is value


@pytest.mark.parametrize("value", [1 << 63, 1 << 70, 10**400])
def test_an_int_has_64_bits(value: int) -> None:
    with refused(AdaptError, "an int from 1 to 9223372036854775807", "Fix: tokens=1."):
        whole_number(value, "explain: tokens", AdaptError)
    assert whole_number((1 << 63) - 1, "explain: tokens", AdaptError) == (1 << 63) - 1

"""Hyperparameters of a run: the course of the learning rate, and values out of range."""

from __future__ import annotations

from typing import Any

import pytest

from tensorfact.errors import TrainingError
from tensorfact.lab.training import Schedule
from tests.helpers import refused, untouched
from tests.lab.training.runs import network, numbers, run


@pytest.mark.parametrize(
    ("warmup", "progress", "factor"),
    [
        (0, 0.0, 1.0),
        (0, 0.5, 0.5),
        (0, 1.0, 0.0),
        (2, 0.1, 0.5),
        (2, 0.2, 1.0),
        (2, 1.0, 0.0),
        (10, 0.5, 0.5),
        (10, 1.0, 1.0),
    ],
)
def test_the_learning_rate_warms_up_and_falls_to_zero(warmup: float, progress: float, factor: float) -> None:
    assert Schedule(10, 1, 1.0, 0.0, warmup, 0).lr_factor(progress) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("epochs", -1), ("batch_size", 0), ("lr", -1.0), ("lr", float("nan")), ("lr", float("inf")),
        ("weight_decay", -0.1), ("weight_decay", float("nan")), ("warmup_epochs", -1), ("warmup_epochs", float("inf")),
        ("lr", 0), ("lr", 1e300), ("weight_decay", 1e300), ("warmup_epochs", 6), ("warmup_epochs", 5.5), ("seed", -1),
        ("seed", 1 << 63), ("seed", 1 << 70), ("epochs", 1 << 63), ("batch_size", 10**30),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_refused(name: str, value: Any) -> None:
    model = network()
    with untouched(model), refused(TrainingError, name, repr(value), fix=False):
        run(model, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", "5"), ("epochs", 1.5), ("batch_size", 2.5), ("lr", None), ("seed", 1.5), ("seed", None)],
)
def test_a_number_of_another_type_is_refused(name: str, value: Any) -> None:
    model = network()
    with untouched(model), refused(TrainingError, name, repr(value), fix=False):
        run(model, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("accumulation", 0), ("accumulation", 1.5), ("workers", -1), ("validate_every", 0)]
)
def test_an_option_out_of_range_is_refused(name: str, value: Any) -> None:
    model = network()
    with untouched(model), refused(TrainingError, name, repr(value), fix=False):
        run(model, **{name: value})


@pytest.mark.parametrize("seed", [1 << 44, (1 << 62) + 1, (1 << 63) - 1])
def test_a_seed_of_64_bits_repeats_a_run(seed: int) -> None:
    runs = [numbers(run(network(), epochs=2, seed=given)) for given in (seed, seed, seed - 1)]
    assert runs[0] == runs[1] != runs[2]

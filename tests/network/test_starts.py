"""Starts of a core: words with and without numbers, and invalid ones."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tensorfact.errors import NetworkError
from tensorfact.network.starts import check_start, drawn
from tests.helpers import refused


@pytest.mark.parametrize(
    ("start", "deviation"),
    [
        ("normal", 0.3), ("normal:2", 2.0), ("uniform", 0.3), ("uniform:2", 2 / math.sqrt(3)),
        ("xavier", math.sqrt(2 / 500)), ("xavier:3", 3 * math.sqrt(2 / 500)), ("constant:0.5", 0.0), ("zero", 0.0),
    ],
)  # fmt: skip
def test_a_word_is_a_distribution(start: str, deviation: float) -> None:
    value = drawn(start, (10, 40, 100), 0.3, torch.Generator().manual_seed(0))
    assert value.dtype == torch.float32
    assert float(value.std()) == pytest.approx(deviation, rel=0.05)
    assert float(value.mean()) == pytest.approx(0.5 if start.startswith("constant") else 0, abs=0.05)


def test_an_orthogonal_core_is_orthogonal_as_a_matrix() -> None:
    value = drawn("orthogonal", (4, 5, 6), 1.0, None).reshape(20, 6)
    assert torch.allclose(value.T @ value, torch.eye(6), atol=1e-5)


@pytest.mark.parametrize("start", ["", "norm", "normal:", "normal:x", "normal:nan", "zero:1", "given:1", None, 3])
def test_what_is_no_start_is_refused(start: Any) -> None:
    with refused(NetworkError, repr(start), fix=False):
        check_start(start, "U")


@pytest.mark.parametrize("given", [torch.arange(6), torch.rand(2, 3, dtype=torch.float64), torch.eye(4).bfloat16()])
def test_a_given_core_has_the_values_that_are_given(given: torch.Tensor) -> None:
    value = drawn("given", given.shape, 0.3, None, given)
    assert value.dtype == torch.float32
    assert torch.equal(value, given.float())


@pytest.mark.parametrize("start", ["normal", "normal:2", "uniform", "orthogonal", "xavier", "constant", "zero"])
def test_a_generator_decides_the_values_whatever_torch_s_defaults(start: str) -> None:
    def values(noise: int) -> torch.Tensor:
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        value = drawn(start, (3, 4, 5), 0.3, torch.Generator().manual_seed(7))
        assert torch.equal(torch.get_rng_state(), state)
        return value

    expected = values(0)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = values(1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("start", "value"), [("constant", 1.0), ("constant:-2.5", -2.5), ("zero", 0.0)])
def test_a_constant_core_has_one_value_everywhere(start: str, value: float) -> None:
    assert torch.equal(drawn(start, (2, 3), 0.3, None), torch.full((2, 3), value))

"""Costs: their arithmetic, what a product costs, and the constants that turn a cost into a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.errors import DeviceError
from tensorfact.network import Cost, Machine, calibrate, machine
from tensorfact.network import cost as module
from tensorfact.network.cost import product
from tests.helpers import refused


@pytest.mark.parametrize("device", ["meta", "nowhere", None])
def test_a_device_that_cannot_compute_is_refused(device: str) -> None:
    with refused(DeviceError, repr(device)):
        calibrate(device)


COUNTS = st.integers(0, 10**12)
COSTS = st.builds(Cost, COUNTS, COUNTS, COUNTS, COUNTS)
SIDES = st.integers(1, 10**4)
CONSTANTS = st.floats(1e-9, 1e15)
MACHINES = st.builds(Machine, st.just("cpu"), CONSTANTS, CONSTANTS, CONSTANTS)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> dict[str, Machine]:
    """The table of known machines, restored after the test."""
    known = dict(module._machines)
    monkeypatch.setattr(module, "_machines", known)
    return known


@given(COSTS, COSTS, COSTS)
def test_costs_add_up_in_any_order(one: Cost, other: Cost, third: Cost) -> None:
    assert one + other == other + one
    assert (one + other) + third == one + (other + third)
    assert one + Cost() == one


@given(COSTS, COSTS, st.integers(0, 100), st.integers(0, 100))
def test_a_multiple_of_a_cost_is_that_many_added(one: Cost, other: Cost, times: int, more: int) -> None:
    assert sum([one] * times, Cost()) == times * one
    assert (times + more) * one == times * one + more * one
    assert times * (one + other) == times * one + times * other


def test_every_count_of_a_cost_is_added_to_its_own() -> None:
    assert Cost(1, 20, 300, 4000) + Cost(5, 60, 700, 8000) == Cost(flops=6, moved=80, kept=1000, launches=12000)
    assert 3 * Cost(1, 20, 300, 4000) == Cost(flops=3, moved=60, kept=900, launches=12000)


@given(SIDES, SIDES, SIDES)
def test_a_product_multiplies_and_adds_every_term_and_moves_every_number_once(r: int, s: int, c: int) -> None:
    cost = product(r, s, c)
    assert cost == Cost(flops=2 * r * s * c, moved=r * s + s * c + r * c, kept=0, launches=1)
    assert product(c, s, r) == cost  # the transposed product


@given(MACHINES, COSTS, COSTS, st.integers(0, 50))
def test_seconds_are_linear_in_the_cost(on: Machine, one: Cost, other: Cost, times: int) -> None:
    assert on.seconds(Cost()) == 0
    assert on.seconds(one + other) == pytest.approx(on.seconds(one) + on.seconds(other), rel=1e-9)
    assert on.seconds(times * one) == pytest.approx(times * on.seconds(one), rel=1e-9)


@given(MACHINES, COUNTS, st.sampled_from([1, 2, 4, 8]))
def test_every_count_takes_the_time_of_its_own_constant(on: Machine, count: int, itemsize: int) -> None:
    assert on.seconds(Cost(flops=count), itemsize) == pytest.approx(count / on.flops_per_second)
    assert on.seconds(Cost(moved=count), itemsize) == pytest.approx(itemsize * count / on.bytes_per_second)
    assert on.seconds(Cost(launches=count), itemsize) == pytest.approx(count * on.seconds_per_launch)
    assert on.seconds(Cost(kept=count), itemsize) == 0


def test_calibrating_replaces_the_constants_by_positive_finite_ones(machines: dict[str, Machine]) -> None:
    before = machine("cpu")
    found = calibrate(torch.device("cpu"))
    assert machine("cpu") is machine(torch.device("cpu", 0)) is found is not before
    assert found.device == "cpu"
    for constant in (found.flops_per_second, found.bytes_per_second, found.seconds_per_launch):
        assert math.isfinite(constant)
        assert constant > 0


def test_a_device_that_computes_nothing_counts_as_a_cpu(machines: dict[str, Machine]) -> None:
    machines["cpu"] = Machine("cpu", 1.0, 2.0, 3.0)
    assert machine("meta") is machine(torch.device("meta")) is machines["cpu"]
    assert list(machines) == ["cpu"]


def test_what_is_known_of_a_device_is_not_measured_again(machines: dict[str, Machine]) -> None:
    machines["cuda"] = Machine("cuda", 1.0, 2.0, 3.0)
    assert machine("cuda:1") is machine("cuda") is machines["cuda"]
    assert machine("cpu") is machine("cpu")


@pytest.mark.parametrize(("calls", "rounds"), [(1, 1), (3, 5), (4, 2)])
def test_a_time_is_measured_over_rounds_of_calls_after_one_of_warm_up(calls: int, rounds: int) -> None:
    called: list[int] = []
    assert module._seconds(lambda: called.append(1), torch.device("cpu"), calls, rounds) > 0
    assert len(called) == calls * (rounds + 1)

"""Networks: which ones are valid, and their derived properties."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given

from tensorfact.errors import NetworkError
from tensorfact.network import Core, Mode, Network
from tests.helpers import refused
from tests.strategies import networks

A = Core("A", ("in", "_r"))
B = Core("B", ("_r", "out"), "zero")
SIZES = {"in": 6, "out": 4, "_r": 2}


def test_a_network_states_shapes_and_count() -> None:
    network = Network((A, B), ("in", "out"), SIZES)
    assert network.shapes() == {"A": (6, 2), "B": (2, 4)}
    assert network.shape(("out", "in")) == (4, 6)
    assert network.num_parameters == 20
    assert str(network) == "A[in _r] B[_r out] -> in out"


@given(networks())
def test_the_count_is_the_sum_of_the_cores(network: Network) -> None:
    shapes = network.shapes()
    assert list(shapes) == [core.name for core in network.cores]
    assert network.num_parameters == sum(math.prod(shape) for shape in shapes.values())


@given(networks())
def test_equal_networks_hash_alike_and_survive_their_sizes_being_changed_elsewhere(network: Network) -> None:
    sizes = dict(reversed(list(network.sizes.items())))
    twin = dataclasses.replace(network, sizes=sizes)
    sizes.clear()
    assert twin == network
    assert hash(twin) == hash(network)


@pytest.mark.parametrize(
    ("cores", "output", "sizes", "word"),
    [
        ((), (), {}, "no core"),
        ((A, A), ("in",), SIZES, "not unique"),
        ((Core("A", ("in", "in")),), ("in",), SIZES, "same leg twice"),
        ((A, B), ("in", "in"), SIZES, "same leg twice"),
        ((A, B), ("in", "up"), SIZES, "'up'"),
        ((A, B), ("in", "out"), {"in": 6, "out": 4}, "'_r'"),
        ((A, B), ("in", "out"), {**SIZES, "_r": 0}, "at least 1"),
        ((dataclasses.replace(A, start="zero"), B), ("in", "out"), SIZES, "more than one core starts at zero"),
        ((dataclasses.replace(A, start="ones"), B), ("in", "out"), SIZES, "core 'A'"),
    ],
)
def test_what_is_no_einsum_is_refused(cores: Any, output: Sequence[str], sizes: dict[str, int], word: str) -> None:
    with refused(NetworkError, word):
        Network(cores, tuple(output), sizes)


def test_a_mode_knows_its_side() -> None:
    assert Mode("(layer role)", 144, "stack") == Mode("(layer role)", 144, side="stack")


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ({}, ["orthogonal", "normal", "zero"]),
        ({"A": "uniform"}, ["uniform", "normal", "zero"]),
        ({"M": "zero"}, ["orthogonal", "zero", "normal"]),
        ({"M": "zero", "B": "constant:2"}, ["orthogonal", "zero", "constant:2"]),
        ({"B": "xavier"}, ["orthogonal", "normal", "xavier"]),
    ],
)
def test_other_starts_leave_one_zero_core_and_the_others_as_they_are(
    starts: dict[str, str], expected: list[str]
) -> None:
    first, middle = dataclasses.replace(A, start="orthogonal"), Core("M", ("_r", "_s"))
    network = Network((first, middle, Core("B", ("_s", "out"), "zero")), ("in", "out"), {**SIZES, "_s": 3})
    assert [core.start for core in network.started(starts).cores] == expected
    assert [core.trained for core in network.started(starts).cores] == [True, True, True]
    frozen = network.started(starts, ["A"])
    assert [core.trained for core in frozen.cores] == [False, True, True]
    assert [core.trained for core in frozen.started({}).cores] == [False, True, True]


def test_the_fan_in_counts_each_bond_and_each_input_once_and_nothing_of_the_zero_core() -> None:
    second = Core("C", ("in", "_r", "_s"))
    sizes = {"in": 6, "out": 4, "_r": 2, "_s": 3}
    network = Network((A, second, Core("B", ("_s", "out"), "zero")), ("in", "out"), sizes)
    assert [network.fan_in(core, {"in": 6}) for core in network.cores[:2]] == [6, 2]
    network = Network((A, second, Core("B", ("in", "_s", "out"), "zero")), ("in", "out"), sizes)
    assert [network.fan_in(core, {"in": 6}) for core in network.cores[:2]] == [1, 2]
    network = Network((A, Core("C", ("in", "_r")), Core("B", ("out",), "zero")), ("in", "out"), SIZES)
    assert [network.fan_in(core, {"in": 5}) for core in network.cores[:2]] == [5, 2]
    assert [network.fan_in(core, {}) for core in network.cores[:2]] == [1, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"cores": 5},
        {"cores": ("A",)},
        {"cores": (Core("A", 5),)},  # type: ignore[arg-type]
        {"cores": (Core("A", (1, 2)),)},  # type: ignore[arg-type]
        {"output": 0.5},
        {"output": "ab"},
        {"output": ([],)},
        {"sizes": 5},
        {"sizes": {"in": 2.5, "out": 4}},
        {"sizes": {"in": None, "out": 4}},
    ],
)
def test_a_network_is_made_of_cores_legs_and_ints(changes: Any) -> None:
    given = {"cores": (Core("A", ("in", "out")),), "output": ("in", "out"), "sizes": {"in": 6, "out": 4}}
    with refused(NetworkError, "network: "):
        Network(**{**given, **changes})
    assert Network(**{**given, "cores": list(given["cores"])}) == Network(**given)  # type: ignore[arg-type]

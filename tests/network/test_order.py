"""Contraction: the result equals einsum's, and the cost is that of its steps and at most that of a naive order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import opt_einsum
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tensorfact.errors import AdaptError, NetworkError
from tensorfact.network import Core, Network, plan_contraction, with_input
from tensorfact.network.order import TOKENS, check_optimize
from tests.helpers import difference, refused
from tests.strategies import networks

OPTIMIZERS: list[Any] = ["auto", "greedy", "optimal", "dp", "eager", opt_einsum.DynamicProgramming(minimize="size")]


def operands(network: Network, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in network.shapes().values()]


def einsum(network: Network, tensors: Iterable[Tensor]) -> Tensor:
    """Contract with one einsum, as an independent reference."""
    letters = dict(zip(network.sizes, "abcdefghijklmnopqrstuvwxyz", strict=False))
    inputs = ",".join("".join(letters[leg] for leg in core.legs) for core in network.cores)
    return torch.einsum(f"{inputs}->{''.join(letters[leg] for leg in network.output)}", *tensors)


def naive_flops(network: Network, *, backwards: bool) -> int:
    """Count the FLOPs of contracting core by core, in the cores' order."""
    cores = network.cores[::-1] if backwards else network.cores
    held, total = set(cores[0].legs), 0
    if len(cores) == 1:
        return math.prod(network.shape(sorted(held)))
    for at, core in enumerate(cores[1:], 1):
        involved = held | set(core.legs)
        wanted = set(network.output).union(*(later.legs for later in cores[at + 1 :]))
        held = involved & wanted
        total += math.prod(network.shape(sorted(involved))) * (2 if held < involved else 1)
    return total


@given(networks(), st.sampled_from(OPTIMIZERS))
def test_the_result_is_that_of_one_einsum(network: Network, optimize: Any) -> None:
    tensors = operands(network)
    found = plan_contraction(network, optimize)(tensors)
    assert difference(found, einsum(network, tensors)) < 1e-12


@given(networks())
def test_the_naive_cost_is_the_better_of_both_directions(network: Network) -> None:
    directions = [naive_flops(network, backwards=backwards) for backwards in (False, True)]
    assert plan_contraction(network).naive_flops == min(directions)


@given(networks(), st.sampled_from(OPTIMIZERS))
def test_steps_have_at_most_two_operands_and_say_what_they_cost(network: Network, optimize: Any) -> None:
    plan = plan_contraction(network, optimize)
    assert all(len(step.operands) <= 2 for step in plan.steps)
    assert sum(len(step.operands) == 2 for step in plan.steps) == len(network.cores) - 1
    assert plan.flops == sum(step.cost.flops for step in plan.steps) <= plan.naive_flops
    assert plan.largest_intermediate == max(step.elements for step in plan.steps)
    assert plan.steps[-1].elements == math.prod(network.shape(network.output))


class AllAtOnce(opt_einsum.paths.PathOptimizer):  # type: ignore[misc]
    """A custom optimiser whose path is one step with all operands."""

    def __call__(self, inputs: list[Any], output: Any, sizes: Any, memory_limit: Any = None) -> list[tuple[int, ...]]:
        return [tuple(range(len(inputs)))]


def test_a_step_of_many_operands_is_split_into_pairs() -> None:
    legs = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")]
    cores = tuple(Core(name, pair) for name, pair in zip("ABCD", legs, strict=True))
    network = Network(cores, ("a", "e"), {"a": 2, "b": 3, "c": 4, "d": 5, "e": 2})
    plan, tensors = plan_contraction(network, AllAtOnce()), operands(network)
    assert [len(step.operands) for step in plan.steps] == [2, 2, 2]
    assert difference(plan(tensors), einsum(network, tensors)) < 1e-12


def test_the_order_follows_the_sizes() -> None:
    """Few tokens are multiplied by the cores one by one, many tokens by the product of the small cores."""
    cores = (Core("A", ("in", "_1")), Core("S", ("_1", "_2")), Core("B", ("_2", "out")))
    network = Network(cores, ("in", "out"), {"in": 64, "out": 64, "_1": 8, "_2": 8})
    orders = [str(plan_contraction(with_input(network, ("in",), ("out",), tokens))) for tokens in (1, 10_000)]
    assert orders[0].startswith("x A -> [(tokens) _1]")
    assert "(x A) S" in orders[0]
    assert "(x A) S" not in orders[1]


def test_an_input_goes_before_the_cores() -> None:
    network = with_input(Network((Core("A", ("in", "out")),), ("in", "out"), {"in": 3, "out": 2}), ("in",), ("out",), 7)
    assert network.cores[0].legs == (TOKENS, "in")
    assert network.output == (TOKENS, "out")
    assert plan_contraction(network)(operands(network)).shape == (7, 2)


@pytest.mark.parametrize(("core", "leg", "words"), [("A", TOKENS, f"{TOKENS!r} is reserved"), ("x", "in", "'x'")])
def test_the_names_of_the_input_are_reserved(core: str, leg: str, words: str) -> None:
    with refused(NetworkError, words, fix=core == "A"):
        with_input(Network((Core(core, (leg, "out")),), (leg, "out"), {leg: 3, "out": 2}), (leg,), ("out",), 7)


def test_a_plan_is_made_once_for_equal_networks() -> None:
    first, second = (Network((Core("A", ("x", "y")),), ("x",), {"x": 2, "y": 3}) for _ in range(2))
    assert plan_contraction(first) is plan_contraction(second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_keeps_the_dtype(dtype: torch.dtype) -> None:
    network = Network((Core("A", ("x", "y")), Core("B", ("y", "z"))), ("z", "x"), {"x": 2, "y": 3, "z": 4})
    assert plan_contraction(network)([t.to(dtype) for t in operands(network)]).dtype == dtype


class Unhashable(opt_einsum.DynamicProgramming):  # type: ignore[misc]  # opt_einsum has no types here
    """An optimiser object that is compared by its options."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable) and self.minimize == other.minimize

    __hash__ = None  # type: ignore[assignment]  # what Python does to a class with __eq__


@pytest.mark.parametrize(
    "optimize", [Unhashable(), Unhashable(minimize="size"), opt_einsum.RandomGreedy(max_repeats=2)]
)
def test_an_optimiser_need_not_be_hashable(optimize: Any) -> None:
    cores = (Core("A", ("in", "_r")), Core("B", ("_r", "_s")), Core("C", ("_s", "out")))
    network = Network(cores, ("in", "out"), {"in": 4, "_r": 2, "_s": 3, "out": 5})
    assert plan_contraction(network, optimize).flops <= plan_contraction(network, optimize).naive_flops


@pytest.mark.parametrize("optimize", [5, "best", None, [1]])
def test_what_is_no_optimiser_is_refused(optimize: Any) -> None:
    with refused(NetworkError, "plan_contraction: optimize"):
        plan_contraction(Network((Core("A", ("in",)),), ("in",), {"in": 2}), optimize)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50))
def test_training_computes_three_products_and_keeps_the_operands(tokens: int, inputs: int, outputs: int) -> None:
    sizes = {"tokens": tokens, "in": inputs, "out": outputs}
    plan = plan_contraction(Network((Core("x", ("tokens", "in")), Core("W", ("in", "out"))), ("tokens", "out"), sizes))
    assert plan.training.flops == 3 * 2 * tokens * inputs * outputs
    assert plan.training.kept == tokens * inputs + inputs * outputs
    assert (plan.training.moved, plan.training.launches) == (3 * plan.cost.moved, 3)
    assert plan.largest_intermediate == tokens * outputs


@pytest.mark.parametrize("optimize", ["fastest", "", None, 3, ["greedy"]])
def test_the_check_of_an_optimiser_names_the_argument(optimize: Any) -> None:
    with refused(AdaptError, "adapt: optimize", repr(optimize), "optimize='auto'"):
        check_optimize(optimize, "adapt: optimize", AdaptError)
    for known in OPTIMIZERS:
        check_optimize(known, "adapt: optimize", AdaptError)

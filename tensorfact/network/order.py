"""Contraction of a network: opt_einsum plans the order once from the sizes, and two-operand steps execute it.

`torch.einsum` with three or more operands plans at every call and recompiles for every batch size. A plan made here is
plain data, so a compiled model sees a fixed list of products.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import string
from collections.abc import Callable, Iterable, Mapping, Sequence

import opt_einsum
import torch
from torch import Tensor

from ..common.checks import ErrorClass, quoted
from ..errors import NetworkError
from .cost import Cost, Machine, machine
from .network import Core, Network

TOKENS = "(tokens)"
"""The leg of an input over its samples and positions; no mode or bond has this name."""

Path = Sequence[tuple[int, ...]]
"""For each step of a contraction, the positions of its operands."""

Optimize = str | Callable[..., Path]
"""The `optimize` argument of opt_einsum: the name of a method, such as `greedy`, or an optimiser object."""


def check_optimize(optimize: object, argument: str, kind: ErrorClass) -> None:
    """Check that a value is the name of an opt_einsum method or an optimiser object.

    Args:
        optimize: The value to check.
        argument: Where the value was passed, as in `adapt: optimize`.
        kind: Class of the error.

    Raises:
        TensorfactError: Of class `kind`, if the value is neither.
    """
    try:
        known = isinstance(optimize, opt_einsum.paths.PathOptimizer)
        known = known or (isinstance(optimize, str) and bool(opt_einsum.paths.get_path_fn(optimize)))
    except KeyError:
        known = False
    if not known:
        expected = "'auto', 'greedy', 'optimal', another method of opt_einsum, or an optimiser object"
        raise kind(argument, expected=expected, got=quoted(optimize), fix="optimize='auto'")


@dataclasses.dataclass(frozen=True)
class ContractionStep:
    """One product: remove the operands at these positions from the list, append their product.

    Args:
        operands: Positions of the operands, in the order of the equation.
        equation: The einsum of the step.
        summed: For a matrix product (no common open leg), the summed dimensions of each operand; else None.
        before: For a matrix product, the order in which each operand's dimensions are taken.
        order: For a matrix product, the order of its dimensions in the result.
        description: The product in leg names, for display.
        cost: Cost of the product.
        elements: Number of elements in the result.
    """

    operands: tuple[int, ...]
    equation: str
    summed: tuple[list[int], list[int]] | None = dataclasses.field(hash=False)
    before: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    description: str
    cost: Cost
    elements: int

    def __call__(self, taken: Sequence[Tensor]) -> Tensor:
        """Compute the product; matrix products use `tensordot`, as einsum would run a slower batched product."""
        if self.summed is None or taken[0].dtype != taken[-1].dtype:  # dtypes differ under autocast; einsum casts them
            return torch.einsum(self.equation, *taken)
        left, right = (tensor.permute(order) for tensor, order in zip(taken, self.before, strict=True))
        product: Tensor = torch.tensordot(left, right, self.summed)
        return product if self.order == tuple(range(product.ndim)) else product.permute(self.order)


@dataclasses.dataclass(frozen=True)
class Contraction:
    """The pairwise order chosen for one network and its sizes.

    Args:
        steps: The products, in order.
        naive_flops: FLOPs of the better of the two naive orders, first core to last and last to first.
    """

    steps: tuple[ContractionStep, ...]
    naive_flops: int

    @property
    def flops(self) -> int:
        """Multiplications and additions of all steps."""
        return self.cost.flops

    @property
    def cost(self) -> Cost:
        """Cost of all steps in a forward pass."""
        return sum((step.cost for step in self.steps), Cost())

    @property
    def training(self) -> Cost:
        """Cost of all steps in a training step: once forward, and once for the gradient of each of the two operands."""
        once = self.cost
        operands = sum(step.cost.moved - step.elements for step in self.steps)
        return 3 * once + Cost(kept=operands)

    @property
    def largest_intermediate(self) -> int:
        """Number of elements in the largest result of a step."""
        return max(step.elements for step in self.steps)

    def __str__(self) -> str:
        return ", ".join(step.description for step in self.steps)

    def __call__(self, operands: Iterable[Tensor]) -> Tensor:
        """Contract tensors given in the order of the network's cores.

        Args:
            operands: One tensor per core, each with its core's legs as dimensions.

        Returns:
            The result, with the network's output legs as dimensions.
        """
        return self.steps[-1](self.before_last(operands))

    def before_last(self, operands: Iterable[Tensor]) -> list[Tensor]:
        """Contract tensors up to the last step, and return its operands in the order of its equation.

        Args:
            operands: As for the whole contraction.
        """
        waiting = list(operands)
        for step in self.steps[:-1]:
            result = step([waiting[at] for at in step.operands])
            waiting = [tensor for at, tensor in enumerate(waiting) if at not in step.operands]
            waiting.append(result)
        return [waiting[at] for at in self.steps[-1].operands]


def plan_contraction(network: Network, optimize: Optimize = "auto", on: Machine | None = None) -> Contraction:
    """Choose the fastest pairwise order among those with no more FLOPs than either naive order.

    Args:
        network: The network to contract.
        optimize: The name of an opt_einsum method, or an optimiser object.
        on: The machine to predict times for; default: the CPU.

    Returns:
        The steps with their costs; kept for later calls, unless the optimiser object cannot be hashed.

    Raises:
        NetworkError: `optimize` is neither the name of a method nor an optimiser object.

    Examples:
        >>> from tensorfact.network import Core, Network
        >>> cores = (Core("x", ("tokens", "in")), Core("A", ("in", "_r")), Core("B", ("_r", "out")))
        >>> network = Network(cores, ("tokens", "out"), {"tokens": 100, "in": 64, "out": 64, "_r": 4})
        >>> plan = plan_contraction(network)
        >>> print(plan, plan.flops)
        x A -> [tokens _r], (x A) B -> [tokens out] 102400
    """
    if optimize != "auto":
        check_optimize(optimize, "plan_contraction: optimize", NetworkError)
        if type(optimize).__hash__ is None:
            return planned.__wrapped__(network, optimize, on)
    return planned(network, optimize, on)


@functools.lru_cache(maxsize=4096)
def planned(network: Network, optimize: Optimize, on: Machine | None) -> Contraction:
    """Choose an order as `plan_contraction` does, and keep it."""
    count = len(network.cores)
    forward = _steps(network, [(1, 0), *((count - 2 - k, 0) for k in range(count - 2))] if count > 1 else [(0,)])
    backward = _steps(network, [(count - 1 - k, count - 2 - k) for k in range(count - 1)] if count > 1 else [(0,)])
    legs = sorted(network.sizes)
    symbols = {leg: opt_einsum.get_symbol(index) for index, leg in enumerate(legs)}
    inputs = ",".join(_spell(core.legs, symbols) for core in network.cores)
    equation = f"{inputs}->{_spell(network.output, symbols)}"
    shapes = [network.shape(core.legs) for core in network.cores]
    path, _ = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize=optimize)
    naive = min(_flops(forward), _flops(backward))
    allowed = [steps for steps in (_steps(network, path), forward, backward) if _flops(steps) <= naive]
    best = min(allowed, key=lambda steps: (on or machine("cpu")).seconds(sum((s.cost for s in steps), Cost())))
    return Contraction(best, naive)


def with_input(network: Network, legs: Sequence[str], output: Sequence[str], tokens: int) -> Network:
    """Add an input in front of a network's cores: the einsum of the activation route.

    Args:
        network: A network whose open legs include `legs` and `output`.
        legs: Legs that the input is contracted with, in the order of its last dimensions.
        output: Legs of the result for one token.
        tokens: Number of tokens to plan for.

    Returns:
        A network whose first core is the input (tokens, *legs) and whose output is (tokens, *output).

    Raises:
        NetworkError: A core or a leg of the network has the name of the input or its token leg.
    """
    if TOKENS in network.sizes:
        raise NetworkError(
            f"network {network}: the leg name {TOKENS!r} is reserved for the input", fix="rename the leg in the format"
        )
    x = Core("x", (TOKENS, *legs))
    return Network((x, *network.cores), (TOKENS, *output), {**network.sizes, TOKENS: tokens})


def _flops(steps: Sequence[ContractionStep]) -> int:
    return sum(step.cost.flops for step in steps)


def _steps(network: Network, path: Path) -> tuple[ContractionStep, ...]:
    waiting = [(core.name, core.legs) for core in network.cores]
    pairs = _pairwise(path, len(waiting))
    steps = []
    for number, positions in enumerate(pairs):
        # the operand with the first leg of the result goes first, so that the product needs no transposition
        ordered = sorted(positions, key=lambda at: (network.output[:1] != waiting[at][1][:1], at))
        taken = [waiting[at] for at in ordered]
        waiting = [operand for at, operand in enumerate(waiting) if at not in positions]
        wanted = set(network.output).union(*(legs for _, legs in waiting))
        involved = tuple(dict.fromkeys(leg for _, legs in taken for leg in legs))
        last = number == len(pairs) - 1
        result = network.output if last else tuple(leg for leg in involved if leg in wanted)
        steps.append(_step(network, tuple(ordered), taken, involved, result))
        waiting.append((f"({' '.join(name for name, _ in taken)})", result))
    return tuple(steps)


def _pairwise(path: Path, count: int) -> list[tuple[int, ...]]:
    """Split the path's steps of three or more operands into steps of two; the highest position comes first."""
    pairs: list[tuple[int, ...]] = []
    for group in path:
        first, *others = sorted(group, reverse=True)
        pairs += [] if others else [(first,)]
        for other in others:
            pairs.append((first, other))
            count -= 1
            first = count - 1
    return pairs


def _step(
    network: Network,
    positions: tuple[int, ...],
    taken: list[tuple[str, tuple[str, ...]]],
    involved: tuple[str, ...],
    result: tuple[str, ...],
) -> ContractionStep:
    letter = dict(zip(involved, string.ascii_letters, strict=False))
    sums = len(result) < len(involved)
    summed, before, order = _matrix_product(network, [legs for _, legs in taken], result)
    return ContractionStep(
        positions,
        f"{','.join(_spell(legs, letter) for _, legs in taken)}->{_spell(result, letter)}",
        summed,
        before,
        order,
        f"{' '.join(name for name, _ in taken)} -> [{' '.join(result)}]",
        Cost(
            math.prod(network.shape(involved)) * (2 if sums and len(taken) > 1 else 1),
            sum(math.prod(network.shape(legs)) for legs in (*(legs for _, legs in taken), result)),
            launches=1,
        ),
        math.prod(network.shape(result)),
    )


def _matrix_product(
    network: Network, taken: list[tuple[str, ...]], result: tuple[str, ...]
) -> tuple[tuple[list[int], list[int]] | None, tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Return the summed dimensions, the operands' orders and the result's order of a matrix product.

    Where the operands are smaller than the result, they are transposed instead of it. For any other product, the summed
    dimensions are None.
    """
    if len(taken) != 2:
        return None, (), ()
    common = [leg for leg in taken[0] if leg in taken[1]]
    if set(common) & set(result) or {leg for legs in taken for leg in legs} - set(common) != set(result):
        return None, (), ()
    arranged = [(*(leg for leg in result if leg in legs), *common) for legs in taken]
    size = math.prod(network.shape(result))
    moved = [legs if math.prod(network.shape(legs)) > size else new for legs, new in zip(taken, arranged, strict=True)]
    before = tuple(tuple(legs.index(leg) for leg in new) for legs, new in zip(taken, moved, strict=True))
    rest = [leg for legs in moved for leg in legs if leg not in common]
    left, right = ([legs.index(leg) for leg in common] for legs in moved)
    return (left, right), before, tuple(rest.index(leg) for leg in result)


def _spell(legs: Sequence[str], letter: Mapping[str, str]) -> str:
    return "".join(letter[leg] for leg in legs)


def dense_of(network: Network, cores: Mapping[str, Tensor]) -> Tensor:
    """Contract the cores of a network to a dense tensor.

    Args:
        network: The network.
        cores: The cores by name.
    """
    return plan_contraction(network)([cores[core.name] for core in network.cores])

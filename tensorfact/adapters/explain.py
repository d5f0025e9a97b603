"""The table behind `Adapter.explain`: route, contraction order, cost and time of each kind of parameter."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence

import numpy
import torch
from torch import Tensor

from ..common.checks import flag, whole_number
from ..common.table import Table
from ..errors import AdaptError
from ..network import Cost
from ..network.cost import seconds_of
from .increments import NOMINAL_TOKENS, AnyIncrement, Increment, token_class
from .increments.products import Product
from .options import Route

ROUNDS = 5
_MOST_TOKENS, _MOST_MEASURED = 1 << 40, 1 << 17


@dataclasses.dataclass(frozen=True)
class Planned:
    """One adapted parameter, as input of `explain`.

    Args:
        increment: The parameter's increment.
        applied: Whether the parameter takes the activation route.
        scale: Scale s of the update: W + s dW.
        parameter: The stored base parameter.
        product: The product that its layer computes, if it is the weight of a linear layer or a convolution.
    """

    increment: AnyIncrement
    applied: bool
    scale: float
    parameter: Tensor
    product: Product | None


@dataclasses.dataclass(frozen=True)
class Otherwise:
    """The route between `activation` and `formed` that a layer does not take.

    Args:
        route: The route.
        predicted: Predicted time of a training step in seconds.
        measured: Measured time of a training step in seconds beyond that of the base layer; None if not measured.
    """

    route: Route
    predicted: float
    measured: float | None = None

    def __str__(self) -> str:
        found = f", {_spell(self.measured)} measured" if self.measured is not None else ""
        return f"{self.route}: {_spell(self.predicted)}{found}"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One row of an explanation: parameters of one kind that take the same route. Figures are per parameter.

    Args:
        parameters: Names of the parameters.
        route: `activation` or `formed` (used in the layer's call; reading the weight still forms it), or `weight`.
        order: The chosen products. `x (U) (S V)` multiplies the input by two matrices, each formed once for all
            layers.
        flops: Multiplications and additions in a forward pass.
        naive_flops: FLOPs of the better of the two naive orders.
        largest_intermediate: Number of elements in the largest intermediate result.
        cost: Cost of a training step.
        predicted: Predicted time of a training step in seconds, by the constants of `calibrate`.
        itemsize: Bytes per element.
        measured: Measured time of a training step in seconds beyond that of the base layer; None if not measured.
        otherwise: The other of the routes `activation` and `formed`; None if the layers can take one of them only.
    """

    parameters: tuple[str, ...]
    route: Route
    order: str
    flops: int
    naive_flops: int
    largest_intermediate: int
    cost: Cost
    predicted: float
    itemsize: int
    measured: float | None = None
    otherwise: Otherwise | None = None


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Result of `Adapter.explain`; `str` gives a table.

    Args:
        tokens: Number of tokens in a forward pass.
        choices: One entry for each kind of parameter and route.
        note: A line below the table, such as how a bank runs batches of several tasks.
    """

    tokens: int
    choices: tuple[Choice, ...]
    note: str = ""

    @property
    def flops(self) -> int:
        """FLOPs that all increments together add to a forward pass."""
        return sum(choice.flops * len(choice.parameters) for choice in self.choices)

    def __str__(self) -> str:
        measured = any(choice.measured is not None for choice in self.choices)
        headers = [
            "parameters",
            "route",
            "order",
            "FLOPs",
            "naive",
            "step FLOPs",
            "moved MB",
            "kept MB",
            "launches",
            "predicted",
            *(["measured"] if measured else []),
            *(["otherwise"] if any(choice.otherwise for choice in self.choices) else []),
        ]
        rows = tuple(
            (
                c.parameters[0] + (f" and {len(c.parameters) - 1} more" if len(c.parameters) > 1 else ""),
                c.route,
                c.order,
                *(f"{number:,}" for number in (c.flops, c.naive_flops, c.cost.flops)),
                *(f"{numbers * c.itemsize / 1e6:.3g}" for numbers in (c.cost.moved, c.cost.kept)),
                str(c.cost.launches),
                _spell(c.predicted),
                *([_spell(c.measured)] if c.measured is not None else []),
                *([str(c.otherwise or "")] if "otherwise" in headers else []),
            )
            for c in self.choices
        )
        table = Table(tuple(headers), rows)
        measured_note = ", time beyond the base layer's (of an embedding and the like: of forming the weight)"
        return (
            f"planned for {self.tokens:,} tokens: {self.flops:,} FLOPs in a forward pass\n{table}\n"
            "activation, formed: in the layer's call; the increment is still formed when the weight is read\n"
            'otherwise: the other of these two routes; route="auto" chooses anew for each number of tokens\n'
            "figures are per parameter; FLOPs: forward pass; naive: core by core in the better direction\n"
            "per training step: step FLOPs, memory moved, memory kept for the backward pass, kernel launches, predicted"
            f" time{measured_note if measured else ''}" + (f"\n{self.note}" if self.note else "")
        )


def explain(planned: Iterable[Planned], tokens: int, *, measure: bool = False) -> Explanation:
    """Collect the planner's choices; see `Adapter.explain`.

    Args:
        planned: The adapted parameters.
        tokens: Number of tokens in a forward pass; rounded up to a power of two.
        measure: Also measure the time of a training step.

    Raises:
        AdaptError: `tokens` is not a positive int, or too large; `measure` is not a bool, or True on the meta device.
    """
    flag(measure, "explain: measure", AdaptError)
    planned = list(planned)
    if measure and any(each.parameter.is_meta for each in planned):
        raise AdaptError(
            "explain: measure=True needs a model with values, not one on the meta device", fix="measure=False"
        )
    tokens = whole_number(tokens, "explain: tokens", AdaptError, example=NOMINAL_TOKENS)
    most = _MOST_MEASURED if measure else _MOST_TOKENS
    if tokens > most:
        what = "explain: tokens" + ", with measure=True" * measure
        raise AdaptError(what, expected=f"at most {most:,}", got=str(tokens), fix="tokens=1024")
    alike: dict[tuple[object, bool], list[Planned]] = {}
    for each in planned:
        alike.setdefault((each.increment.kind, each.applied), []).append(each)
    rounded = token_class(tokens)
    devices = {each.parameter.device for each in planned if each.parameter.device.type == "cuda"}
    with torch.random.fork_rng(list(devices)):  # measuring draws inputs
        return Explanation(rounded, tuple(_choice(same, rounded, measure) for same in alike.values()))


def _choice(same: list[Planned], tokens: int, measure: bool) -> Choice:
    first = same[0]
    kind = first.increment.kind
    route = first.increment.route(tokens) if first.applied else "weight"
    cost, itemsize = kind.cost(route, tokens), first.parameter.element_size()
    contraction = kind.applying(tokens) if first.applied else kind.forming
    order, flops, largest = str(contraction), contraction.flops, contraction.largest_intermediate
    if first.applied and kind.halves is not None:
        cut = kind.halves.cut
        order, flops, largest = str(cut), cut.forward(tokens).flops, tokens * cut.bond
    if route == "formed":
        order, flops, largest = f"x (W + s {order[2:]})", cut.forming.flops, first.parameter.numel()
    other = _on_other_route(same, route, tokens)
    measured = _measured([same, *([other] if other else [])], tokens) if measure else (None, None)
    otherwise = None
    if other:
        other_route = other[0].increment.route(tokens)
        predicted = kind.on.seconds(kind.cost(other_route, tokens), itemsize)
        otherwise = Otherwise(other_route, predicted, measured[1])
    return Choice(
        tuple(each.increment.view.parameter for each in same),
        route,
        order,
        flops,
        contraction.naive_flops,
        largest,
        cost,
        kind.on.seconds(cost, itemsize),
        itemsize,
        measured[0],
        otherwise,
    )


def _on_other_route(same: Sequence[Planned], route: Route, tokens: int) -> list[Planned]:
    """Return parameters on the route between `activation` and `formed` that they do not take; none if there is one."""
    if route == "weight" or same[0].product is None or not same[0].increment.kind.forms("formed", tokens):
        return []
    other: Route = "activation" if route == "formed" else "formed"
    return [
        dataclasses.replace(each, increment=each.increment.on_route(other))
        for each in same
        if isinstance(each.increment, Increment)  # a difference of two increments is added on one route
    ]


def _measured(variants: Sequence[Sequence[Planned]], tokens: int) -> list[float]:
    """Return the median of the extra time of a training step in an adapted layer over its base layer.

    All layers of the kind run, since they share matrices that are formed once. If the layer is neither linear nor a
    convolution, only forming the weight is timed.

    Args:
        variants: The parameters of one kind, once for each route; these are timed in turn.
        tokens: Number of tokens.
    """
    same = variants[0]
    base, product = same[0].parameter.detach(), same[0].product
    cores = [core for core in same[0].increment.factors.tensors() if core.requires_grad]
    if product is None:
        formed = [
            _seconds(lambda: [each.increment.added_to(base, each.scale) for each in same], cores, base.device)
            for _ in range(ROUNDS)
        ]
        return [float(numpy.median(formed[1:])) / len(same)]
    with torch.inference_mode(False):
        x = torch.randn(product.shape(tokens, base), device=base.device).to(base.dtype).requires_grad_()

    found = []
    for _ in range(ROUNDS):
        plain = _seconds(lambda: [_base(each, x) for each in same], [x], base.device)
        steps = [_seconds(functools.partial(_adapted, each, x), [x, *cores], base.device) for each in variants]
        found.append([step - plain for step in steps])
    return [float(numpy.median(times[1:])) / len(same) for times in zip(*found, strict=True)]


def _base(planned: Planned, x: Tensor) -> Tensor:
    assert planned.product is not None
    return planned.product(x, planned.parameter, None)


def _adapted(same: Sequence[Planned], x: Tensor) -> list[Tensor]:
    """Return the outputs of the adapted layers of a kind."""
    outputs = []
    with same[0].increment.passes.opened():
        for each in same:
            assert each.product is not None
            if each.applied:
                outputs.append(each.increment.linear(each.product, x, each.parameter, None, each.scale))
            else:
                weight = each.increment.added_to(each.parameter.detach(), each.scale)
                outputs.append(each.product(x, weight, None))
    return outputs


def _seconds(forward: Callable[[], list[Tensor]], inputs: Sequence[Tensor], device: torch.device) -> float:
    """Time a forward and a backward pass, without accumulating gradients."""

    def step() -> None:
        with torch.inference_mode(False), torch.enable_grad():
            results = forward()
            if inputs:
                torch.autograd.grad(results, inputs, [torch.ones_like(each) for each in results], allow_unused=True)

    return seconds_of(step, device)


def _spell(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"

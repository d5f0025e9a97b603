"""What the contraction planner chose, as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from .factors import Increment, token_class
from .table import Table


@dataclasses.dataclass(frozen=True)
class Choice:
    """One row of an explanation: all parameters that are contracted alike.

    Args:
        parameters: Their names.
        route: `activation` (where the layer is called; a weight that is read is formed) or `weight`.
        order: The chosen products.
        flops: Multiplications and additions of one forward pass of one of them.
        naive_flops: The same for the better of the two naive orders.
        largest_intermediate: Numbers in the largest intermediate result.
    """

    parameters: tuple[str, ...]
    route: str
    order: str
    flops: int
    naive_flops: int
    largest_intermediate: int


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What the planner chose for every kind of parameter. Printed, it is a table.

    Args:
        tokens: The number of tokens planned for.
        choices: One entry for all parameters that are contracted alike.
    """

    tokens: int
    choices: tuple[Choice, ...]

    @property
    def flops(self) -> int:
        """Multiplications and additions that the increments add to one forward pass."""
        return sum(choice.flops * len(choice.parameters) for choice in self.choices)

    def __str__(self) -> str:
        headers = ("parameters", "route", "order", "FLOPs", "naive FLOPs", "largest intermediate")
        rows = tuple(
            (
                c.parameters[0] + (f" and {len(c.parameters) - 1} more" if len(c.parameters) > 1 else ""),
                c.route,
                c.order,
                f"{c.flops:,}",
                f"{c.naive_flops:,}",
                f"{c.largest_intermediate:,}",
            )
            for c in self.choices
        )
        note = "activation: where the layer is called; where its weight is read instead, the increment is formed"
        return f"planned for {self.tokens:,} tokens: {self.flops:,} FLOPs in all\n{Table(headers, rows)}\n{note}"


def explain(increments: Iterable[tuple[Increment, bool]], tokens: int) -> Explanation:
    """Collect what was planned.

    Args:
        increments: Every increment, and whether it takes the activation route.
        tokens: The number of tokens of one forward pass; the planner rounds it up to a power of two.
    """
    alike: dict[tuple[str, object], list[str]] = {}
    for increment, activation in increments:
        contraction = increment.applying(tokens) if activation else increment.forming
        alike.setdefault(("activation" if activation else "weight", contraction), []).append(increment.view.parameter)
    choices = tuple(
        Choice(tuple(names), route, str(c), c.flops, c.naive_flops, c.largest_intermediate)  # type: ignore[attr-defined]
        for (route, c), names in alike.items()
    )
    return Explanation(token_class(tokens), choices)

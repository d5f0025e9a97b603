"""Options that `adapt` and `load_adapter` share, checked once."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import torch

from ..common.checks import flag, one_of, whole_number
from ..errors import AdaptError
from ..network import Dropout
from ..network.order import Optimize, check_optimize

Route = Literal["auto", "activation", "formed", "weight"]


@dataclasses.dataclass(frozen=True)
class AdaptOptions:
    """Options of `adapt` that are passed on to its parts.

    Args:
        dropout: Dropout probabilities in training.
        route: How increments are applied; see `adapt`.
        optimize: The name of an opt_einsum method, or an optimiser object.
        check: Raise an error for a parameter that the model does not use.
        recompute: Recompute the outputs of cheap modules in the backward pass.
        seed: Seed of the random cores; None if they are overwritten.
        function: The function that takes the options, for messages.

    Raises:
        AdaptError: An option is invalid.
    """

    dropout: Dropout = dataclasses.field(default_factory=Dropout)
    route: Route = "auto"
    optimize: Optimize = "auto"
    check: bool = True
    recompute: bool = False
    seed: int | None = None
    function: str = dataclasses.field(default="adapt", compare=False)

    def __post_init__(self) -> None:
        one_of(self.route, get_args(Route), f"{self.function}: route", AdaptError)
        check_optimize(self.optimize, f"{self.function}: optimize", AdaptError)
        flag(self.check, f"{self.function}: check", AdaptError)
        flag(self.recompute, f"{self.function}: recompute", AdaptError)
        if self.seed is None:
            return
        argument, meant = f"{self.function}: seed", "an int of at least 0"
        seed = whole_number(self.seed, argument, AdaptError, least=0, expected=meant, example=0)
        object.__setattr__(self, "seed", seed)

    def generator(self) -> torch.Generator:
        """Return a CPU generator for the random cores, seeded with `seed`."""
        return torch.Generator() if self.seed is None else torch.Generator().manual_seed(self.seed)


def fresh_seed() -> int:
    """Draw a seed from torch's global generator."""
    return int(torch.randint(1 << 62, (), device="cpu"))

"""How factors are put on a model, checked once: what `adapt` and `load_adapter` have in common."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any, Literal, get_args

import torch

from ..common.checks import one_of
from ..errors import AdaptError
from ..network import Dropout

Route = Literal["auto", "activation", "weight"]


@dataclasses.dataclass(frozen=True)
class AdaptOptions:
    """Options of `adapt` that its parts read.

    Args:
        dropout: What is dropped in training.
        route: How increments are applied; see `adapt`.
        optimize: What plans the order of contraction: anything opt_einsum accepts.
        check: Refuse a parameter that the model does not use.
        recompute: Compute the outputs of cheap modules again in the backward pass.
        seed: What draws the random cores; None where they are overwritten.

    Raises:
        AdaptError: A route or a seed that there is not.
    """

    dropout: Dropout = dataclasses.field(default_factory=Dropout)
    route: Route = "auto"
    optimize: Any = "auto"
    check: bool = True
    recompute: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        one_of(self.route, get_args(Route), "adapt: route", AdaptError)
        try:
            seed = None if self.seed is None else operator.index(self.seed)
            object.__setattr__(self, "seed", seed)
            self.generator()
        except (TypeError, RuntimeError, ValueError, OverflowError) as error:
            raise AdaptError("adapt: seed", expected="an int or None", got=repr(self.seed), fix="seed=0") from error

    def generator(self) -> torch.Generator:
        """Return what draws the random cores, on the CPU."""
        return torch.Generator() if self.seed is None else torch.Generator().manual_seed(self.seed)


def fresh_seed() -> int:
    """Draw a seed from torch's own state."""
    return int(torch.randint(1 << 62, (), device="cpu"))

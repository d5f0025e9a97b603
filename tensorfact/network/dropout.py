"""Where dropout acts on an increment, and with which probability."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..common.checks import one_of, probability
from ..errors import AdaptError
from .network import Core, Network
from .starts import ZERO


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Probabilities with which, in training, parts of an increment are dropped for one call; what is kept is scaled up.

    Args:
        rank: A component of the bonds of the core that starts at zero, LoRA's activation of width r; where that has
            none, of the last trained core that has some.
        increment: An entry of the dense increment, which is then formed.
        factors: An entry of a trained core.
    """

    rank: float = 0.0
    increment: float = 0.0
    factors: float = 0.0

    @classmethod
    def of(cls, given: object) -> Dropout:
        """Read what `adapt` takes: a probability, of `rank`, or probabilities by name.

        Args:
            given: The argument.

        Raises:
            AdaptError: It is neither, or a probability is out of range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        values: Mapping[Any, Any] = given if isinstance(given, Mapping) else {"rank": given}
        for name in values:
            one_of(name, names, "adapt: dropout", AdaptError)
        return cls(**{name: probability(value, "adapt: dropout", AdaptError) for name, value in values.items()})

    @property
    def plain(self) -> float | dict[str, float]:
        """The shortest thing that `of` reads as this."""
        used = {name: value for name, value in dataclasses.asdict(self).items() if value}
        return self.rank if used.keys() <= {"rank"} else used

    def __bool__(self) -> bool:
        return any(dataclasses.astuple(self))

    def masked_core(self, network: Network) -> Core | None:
        """Return the core whose bonds are masked: the one that starts at zero, else the last trained one with bonds.

        Args:
            network: The network.

        Raises:
            AdaptError: No trained core has a bond, as where a Kronecker product's matrices are whole.
        """
        if not self.rank:
            return None
        ranked = [core for core in network.cores if core.trained and not set(core.legs) <= set(network.output)]
        if not ranked:
            raise AdaptError(
                f"adapt: dropout of rank components: {network} has none",
                cause="no trained core has a bond",
                fix="dropout={'factors': 0.1}, or {'increment': 0.1}",
            )
        return next((core for core in ranked if core.start == ZERO), ranked[-1])

    def masks(self, network: Network, cores: list[Tensor]) -> list[Tensor | None]:
        """Draw what the cores are multiplied with: zero where something is dropped; None for a core that is kept whole.

        Args:
            network: The network.
            cores: Its cores, in its order.
        """
        chosen, found = self.masked_core(network), []
        for core, tensor in zip(network.cores, cores, strict=True):
            mask = tensor.new_ones(()) if core is chosen or (self.factors and core.trained) else None
            if mask is not None and self.factors and core.trained:
                mask = nn.functional.dropout(torch.ones_like(tensor), self.factors)
            if mask is not None and core is chosen:
                sizes = [1 if leg in network.output else n for leg, n in zip(core.legs, tensor.shape, strict=True)]
                mask = mask * nn.functional.dropout(tensor.new_ones(sizes), self.rank)
            found.append(mask)
        return found

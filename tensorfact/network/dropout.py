"""Dropout on an increment: its rank components, its dense entries or its cores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..common.checks import one_of, probability
from ..errors import AdaptError
from .network import Core, Network
from .starts import ZERO


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Dropout probabilities of an increment: masks are drawn anew for each call, in training mode only.

    Args:
        rank: Drop components of the zero core's bonds (in LoRA, of the activation of width r). If the zero core has
            no bond, the last trained core with a bond is used.
        increment: Drop entries of the dense increment, which is then formed.
        factors: Drop entries of the trained cores.
    """

    rank: float = 0.0
    increment: float = 0.0
    factors: float = 0.0

    @classmethod
    def of(cls, given: object) -> Dropout:
        """Read the `dropout` argument of `adapt`.

        Args:
            given: A probability, which is used as `rank`, or a mapping from names to probabilities.

        Raises:
            AdaptError: A name is unknown, or a probability is out of range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        values: Mapping[object, object] = given if isinstance(given, Mapping) else {"rank": given}
        found = {}
        for key, value in values.items():
            name = one_of(key, names, "adapt: dropout", AdaptError, fix="dropout={'rank': 0.1}")
            found[name] = probability(value, "adapt: dropout", AdaptError)
        return cls(**found)

    @property
    def plain(self) -> float | dict[str, float]:
        """The shortest argument for which `of` returns this object."""
        used = {name: value for name, value in dataclasses.asdict(self).items() if value}
        return self.rank if used.keys() <= {"rank"} else used

    def __bool__(self) -> bool:
        return any(dataclasses.astuple(self))

    def masked_core(self, network: Network) -> Core | None:
        """Return the core whose bonds `rank` masks: the zero core, or else the last trained core with a bond.

        Args:
            network: The network of the tensor.

        Raises:
            AdaptError: No trained core has a bond, as in a Kronecker product of two full matrices.
        """
        if not self.rank:
            return None
        ranked = [core for core in network.cores if core.trained and not set(core.legs) <= set(network.output)]
        if not ranked:
            raise AdaptError(
                f"adapt: dropout: no trained core of {network} has a bond, so there are no rank components to drop",
                fix="dropout={'factors': 0.1} or dropout={'increment': 0.1}",
            )
        return next((core for core in ranked if core.start == ZERO), ranked[-1])

    def masks(self, network: Network, cores: list[Tensor]) -> list[Tensor | None]:
        """Draw the dropout masks that the cores are multiplied with; None for a core without dropout.

        Args:
            network: The network of the tensor.
            cores: Its cores, in the network's order.
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

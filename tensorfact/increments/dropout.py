"""Where dropout acts on an increment, and with which probability."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import AdaptError, nearest
from ..formats.common import zero_core
from ..network import Core, Network


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Probabilities with which, in training, parts of an increment are dropped for one call; what is kept is scaled up.

    Args:
        rank: A component of what meets the core that starts at zero: LoRA's activation of width r.
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
        for name, value in values.items():
            if name not in names:
                raise AdaptError(
                    f"adapt: dropout {name!r}", expected=f"one of {names}", got=f"{name!r}{nearest(str(name), names)}"
                )
            number = not isinstance(value, (bool, str)) and hasattr(value, "__float__")
            if not number or not math.isfinite(float(value)) or not 0 <= float(value) < 1:
                raise AdaptError("adapt: dropout", expected="0 <= dropout < 1", got=repr(value), fix="dropout=0.1")
        return cls(**{name: float(value) for name, value in values.items()})

    @property
    def plain(self) -> float | dict[str, float]:
        """The shortest thing that `of` reads as this."""
        used = {name: value for name, value in dataclasses.asdict(self).items() if value}
        return self.rank if used.keys() <= {"rank"} else used

    def __bool__(self) -> bool:
        return any(dataclasses.astuple(self))

    def dropped(self, network: Network, cores: list[Tensor]) -> list[Tensor]:
        """Return cores with what is dropped at zero.

        Args:
            network: The network.
            cores: Its cores, in its order.
        """
        masked = zero_core(network) if self.rank else None
        found = [
            nn.functional.dropout(tensor, self.factors) if self.factors and core.trained else tensor
            for core, tensor in zip(network.cores, cores, strict=True)
        ]
        return [
            self._masked(network, core, tensor) if core is masked else tensor
            for core, tensor in zip(network.cores, found, strict=True)
        ]

    def _masked(self, network: Network, core: Core, tensor: Tensor) -> Tensor:
        sizes = [1 if leg in network.output else size for leg, size in zip(core.legs, tensor.shape, strict=True)]
        return tensor * nn.functional.dropout(tensor.new_ones(sizes), self.rank)

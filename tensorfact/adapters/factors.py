"""The trainable cores of one tensor, created from its network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..network import Mode, Network, plan_contraction
from ..network.initial import deviations, fresh


class Factors(nn.Module):
    """The cores of one tensor as parameters.

    `network` is that of the stored cores, and `applied` that of the cores of one task; a bank of tasks has the former
    with a leg over tasks.

    Args:
        network: The network; its `zero` core starts at zero.
        modes: The tensor's modes.
        extents: Number of coordinates of each mode in one slice; default: the mode's size.
        given: Cores whose values come from the format, by name.
        dtype: Dtype of the cores.
        device: Device of the cores.
        generator: A CPU generator, so that a seed gives the same values on any device.

    Random cores are normal with variance 1 / fan-in. For an input of independent entries of variance 1, everything the
    zero core is applied to in one slice then has variance 1, at every rank and width.

    Examples:
        >>> import torch
        >>> from tensorfact.network import Mode
        >>> from tensorfact import TensorTrain
        >>> modes = (Mode("layer", 3, "stack"), Mode("in", 8, "in"), Mode("out", 8, "out"))
        >>> factors = Factors(TensorTrain(2).network(modes), modes, generator=torch.Generator().manual_seed(0))
        >>> factors.dense().shape, int(factors.dense().count_nonzero())
        (torch.Size([3, 8, 8]), 0)
    """

    def __init__(
        self,
        network: Network,
        modes: Sequence[Mode],
        extents: Mapping[str, int] | None = None,
        given: Mapping[str, Tensor] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.network = self.applied = network
        self.deviations = deviations(network, modes, extents)
        cores = fresh(network, self.deviations, given, generator)
        self.cores = nn.ParameterDict(
            {
                core.name: nn.Parameter(cores[core.name].to(device, dtype), requires_grad=core.trained)
                for core in network.cores
            }
        )
        self._names = tuple(cores)

    @property
    def num_parameters(self) -> int:
        """Number of parameters in the trained cores."""
        return self.network.num_parameters

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the cores."""
        return self.tensors()[0].dtype

    def named_cores(self) -> dict[str, Tensor]:
        """Return the stored cores by name, in the network's order."""
        return dict(zip(self._names, self.stored(), strict=True))

    def tensors(self) -> list[Tensor]:
        """Return the cores that increments are made of: those of `applied`, in its order."""
        return self.stored()

    def stored(self) -> list[Tensor]:
        """Return the stored cores in the network's order."""
        stored = self.cores._parameters  # faster than ParameterDict's lookup; a parametrized core is not in it
        return [stored.get(name) if name in stored else self.cores[name] for name in self._names]  # type: ignore[misc]  # no core is None

    def dense(self) -> Tensor:
        """Return the dense tensor, with one dimension per mode."""
        return plan_contraction(self.network)(self.stored())

    def assign(self, cores: Mapping[str, Tensor]) -> None:
        """Overwrite the cores' values.

        Args:
            cores: New values by core name.
        """
        with torch.no_grad():
            for name, core in self.cores.items():
                core.copy_(cores[name])


def named(factors: Mapping[str, Factors] | nn.ModuleDict) -> dict[str, Tensor]:
    """Return the cores of several tensors, named `TENSOR.CORE`.

    Args:
        factors: `Factors` by tensor name.
    """
    return {f"{t}.{c}": core for t, f in factors.items() for c, core in cast("Factors", f).named_cores().items()}

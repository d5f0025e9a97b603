"""The trainable cores of one tensor: everything a format needs, derived once from its network."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .contraction import Contraction, plan_contraction, with_input
from .groups import View
from .indexing import Index, as_index, spread, take
from .network import Core, Mode, Network

NOMINAL_TOKENS = 1024
"""Tokens a compiled or exported model is planned for, whose batch size is a symbol."""


class Factors(nn.Module):
    """The cores of one tensor as parameters.

    Args:
        network: The network; its `zero` core starts at zero.
        modes: The tensor's modes.
        extents: Over how many coordinates of each mode one slice runs; its size by default.
        dtype: The cores' dtype.
        device: Where the cores live.
        generator: A CPU generator, so that one seed gives the same numbers on any device.

    Random cores are normal with variance 1 / (terms the core adds to a sum), so that for an input of independent
    entries of variance 1, everything the zero core is applied to in one slice has variance 1, at every rank and width.

    Examples:
        >>> import torch
        >>> from tensorfact import Mode, TensorTrain
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
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        inputs = {mode.name: (extents or {}).get(mode.name, mode.size) for mode in modes if mode.side == "in"}
        cores = {}
        for core, shape in zip(network.cores, network.shapes().values(), strict=True):
            value = torch.zeros(shape, dtype=torch.float32, device="cpu")
            if core.start == "normal":
                value = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu") / math.sqrt(
                    network.fan_in(core, inputs)
                )
            cores[core.name] = nn.Parameter(value.to(device, dtype))
        self.cores = nn.ParameterDict(cores)

    @property
    def num_parameters(self) -> int:
        """How many numbers the cores hold."""
        return sum(core.numel() for core in self.cores.values())

    def named_cores(self) -> dict[str, Tensor]:
        """Return the cores by name, in the network's order."""
        return {core.name: self.cores[core.name] for core in self.network.cores}

    def tensors(self) -> list[Tensor]:
        """Return the cores in the network's order."""
        return list(self.named_cores().values())

    def dense(self) -> Tensor:
        """Return the whole tensor, one dimension a mode."""
        return plan_contraction(self.network)(self.tensors())

    def assign(self, cores: Mapping[str, Tensor]) -> None:
        """Overwrite the cores' values.

        Args:
            cores: A tensor of the right shape for every core, by name.
        """
        with torch.no_grad():
            for name, core in self.cores.items():
                core.copy_(cores[name])


class Increment:
    """The increment of one parameter: its part of the factors, formed or applied.

    Args:
        factors: The factors of the tensor that the parameter is in.
        modes: The tensor's modes.
        view: Where the parameter lies in the tensor.
        optimize: The order's optimiser: anything opt_einsum accepts.
        dropout: Probability with which, in training, a component of what meets the zero core is dropped.
    """

    def __init__(
        self, factors: Factors, modes: Sequence[Mode], view: View, *, optimize: Any = "auto", dropout: float = 0.0
    ) -> None:
        self.factors, self.view, self.optimize, self.dropout = factors, view, optimize, dropout
        self.network, self._picks = _restricted(factors.network, modes, view)
        self._shapes = tuple(self.network.shapes().values())
        self.forming = plan_contraction(self.network, optimize)
        self._applying: dict[int, Contraction] = {}
        if len(view.rule.dims) == 2:
            self.applying(NOMINAL_TOKENS)

    @property
    def plans(self) -> tuple[object, ...]:
        """What it was planned with: data that copies may share."""
        return (self.view, self.network, self.factors.network, self.forming, *self._applying.values())

    def dense(self, *, drop: bool = False) -> Tensor:
        """Return the increment in the parameter's shape, in at least fp32, whatever autocast is in force.

        Args:
            drop: Apply the dropout, if the factors are in training mode.
        """
        cores = [core.to(torch.promote_types(core.dtype, torch.float32)) for core in self._cores(drop)]
        device = cores[0].device.type
        able = torch.amp.is_autocast_available(device)
        with torch.autocast(device, enabled=False) if able else contextlib.nullcontext():
            return self.view.join(self.forming(cores))

    def apply(self, x: Tensor) -> Tensor:
        """Contract an input with the cores, without forming the increment.

        Args:
            x: The input (..., in) of a linear layer whose weight this increment belongs to.

        Returns:
            The result (..., out).
        """
        outputs, inputs = self.view.outputs, self.view.inputs
        kept, sizes = self.view.kept, self.view.sizes
        tokens = NOMINAL_TOKENS if torch.compiler.is_compiling() else int(x.numel()) // max(int(x.shape[-1]), 1)
        z = x.reshape(-1, *(sizes[axis] for axis in inputs))
        for dim, axis in enumerate(inputs, 1):
            z = take(z, dim, as_index(kept[axis])) if len(kept[axis]) < sizes[axis] else z
        z = self.applying(tokens)([z, *(core.to(x.dtype) for core in self._cores(drop=True))])
        for dim, axis in enumerate(outputs, 1):
            z = spread(z, dim, kept[axis], sizes[axis])
        return z.reshape(*x.shape[:-1], self.view.shape[self.view.transposed])

    def applying(self, tokens: int) -> Contraction:
        """Return the order for an input of so many tokens, planned once a power of two.

        Args:
            tokens: How many tokens; rounded up to a power of two.
        """
        rounded = token_class(tokens)
        if rounded not in self._applying:
            network = with_input(self.network, self.view.inputs, self.view.outputs, rounded)
            self._applying[rounded] = plan_contraction(network, self.optimize)
        return self._applying[rounded]

    def _cores(self, drop: bool) -> list[Tensor]:
        cores = []
        for core, tensor, picks, shape in zip(
            self.factors.network.cores, self.factors.tensors(), self._picks, self._shapes, strict=True
        ):
            if drop and self.dropout and self.factors.training and core.start == "zero":
                tensor = self._dropped(core, tensor)
            for dim, index in picks:
                tensor = take(tensor, dim, index)
            cores.append(tensor.reshape(shape))
        return cores

    def _dropped(self, core: Core, tensor: Tensor) -> Tensor:
        open_legs = self.factors.network.output
        mask = tensor.new_ones(
            [1 if leg in open_legs else size for leg, size in zip(core.legs, tensor.shape, strict=True)]
        )
        return tensor * nn.functional.dropout(mask, self.dropout)


def token_class(tokens: int) -> int:
    """Return the power of two at or above a number of tokens.

    Examples:
        >>> token_class(197)
        256
    """
    return 1 << max(tokens - 1, 0).bit_length()


def _restricted(
    network: Network, modes: Sequence[Mode], view: View
) -> tuple[Network, tuple[tuple[tuple[int, Index], ...], ...]]:
    """Cut a network down to one parameter: what to take along each core's legs, and the network of what is left."""
    index = {mode.name: index for mode, index in zip(modes, view.index, strict=True)}
    axes = {mode.name: axes for mode, axes in zip(modes, view.axes, strict=True)}
    whole = {mode.name: slice(0, mode.size, 1) for mode in modes}
    cores, picks = [], []
    for core in network.cores:
        partial = [(dim, leg) for dim, leg in enumerate(core.legs) if leg in index and index[leg] != whole[leg]]
        picks.append(tuple((dim, index[leg]) for dim, leg in partial))
        legs = tuple(axis for leg in core.legs for axis in axes.get(leg, (leg,)))
        cores.append(Core(core.name, legs, core.start))
    bonds = {leg: size for leg, size in network.sizes.items() if leg not in index}
    kept = {axis: len(positions) for axis, positions in view.kept.items()}
    return Network(tuple(cores), view.order, {**bonds, **kept}), tuple(picks)

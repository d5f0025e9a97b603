"""Formats with separate factors for every coordinate of the stack modes: one small network per slice."""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..errors import FormatError
from ..network import Mode, Network
from ..network.starts import GIVEN
from .base import Format, idle
from .common import mode_sizes
from .least_squares import least_squares
from .wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class PerSlice(Format, abc.ABC):
    """A format that factors every slice separately: each core of the network of one slice also gets the stack modes.

    Cores with fixed values (`given`) are shared by all slices.
    """

    @abc.abstractmethod
    def slice_network(self, modes: Sequence[Mode]) -> Network:
        """Return the network of one slice.

        Args:
            modes: The modes of a slice: the tensor's inputs and outputs, in the tensor's order.
        """

    def slice_factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        """Decompose one slice; alternating least squares by default.

        Args:
            tensor: A slice with largest absolute value 1, one dimension per mode.
            modes: The modes of the slice.
        """
        return least_squares(self.slice_network(modes), tensor, self.given(modes))

    def network(self, modes: Sequence[Mode]) -> Network:
        """Return the network of all slices, with the stack modes on every core."""
        slice = slice_modes(modes)
        stack = tuple(mode.name for mode in modes if mode.side == "stack")
        network = self.slice_network(slice)
        cores = tuple(
            core if core.start == GIVEN else dataclasses.replace(core, legs=(*stack, *core.legs))
            for core in network.cores
        )
        return Network(cores, tuple(mode.name for mode in modes), {**network.sizes, **mode_sizes(modes)})

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Decompose slice by slice."""
        network, slice, given = self.network(modes), slice_modes(modes), self.given(modes)
        names, stack = [mode.name for mode in modes], [mode for mode in modes if mode.side == "stack"]
        order = [names.index(mode.name) for mode in (*stack, *slice)]
        dense = tensor.permute(order)
        cores = {
            name: given[name].to(tensor) if name in given else tensor.new_empty(shape)
            for name, shape in network.shapes().items()
        }
        for place in itertools.product(*(range(mode.size) for mode in stack)):
            part, scale = dense[place], float(dense[place].abs().max())
            if not scale:
                found: Mapping[str, Tensor] = idle(self, slice, part)
            else:
                found = self.slice_factorize(part / scale, slice)
            each = (scale or 1.0) ** (1 / (len(found) - len(given)))
            for name in cores.keys() - given.keys():
                cores[name][place] = found[name] * each
        return cores


def slice_modes(modes: Sequence[Mode]) -> tuple[Mode, ...]:
    """Return the modes of one slice: all but the stack modes."""
    return tuple(mode for mode in modes if mode.side != "stack")


@dataclasses.dataclass(frozen=True)
class Each(Wrapper, PerSlice):
    """Apply a format to every slice separately instead of to the whole tensor: `Each(TensorTrain(5))`.

    Args:
        format: The format of one slice.

    Examples:
        >>> from tensorfact.formats import Each
        >>> from tensorfact.network import Mode
        >>> from tensorfact import TensorTrain
        >>> modes = (Mode("layer", 24, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> print(Each(TensorTrain(4)).network(modes))
        U[layer in _1] V[layer _1 out] -> layer in out
    """

    def slice_network(self, modes: Sequence[Mode]) -> Network:
        """Return the inner format's network on one slice."""
        if not modes:
            raise FormatError(f"{self}: modes", expected="an input or output mode", got="only stack modes")
        return self.format.network(modes)

    def slice_factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        """Decompose one slice by the inner format."""
        return self.format.factorize(tensor, modes)

    def inner(self, modes: Sequence[Mode]) -> tuple[Mode, ...]:
        """Return the modes of a slice."""
        return slice_modes(modes)

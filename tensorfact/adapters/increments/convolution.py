"""The product of a convolution; beside it, a narrow matrix is the weight of a convolution with few channels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from .halves import Halves
from .products import Product, Side

_CONVOLVE: dict[int, Callable[..., Tensor]] = {
    1: nn.functional.conv1d,
    2: nn.functional.conv2d,
    3: nn.functional.conv3d,
}


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Where the kernel of a convolution lies on its input, one number for each spatial dimension.

    Args:
        stride: Steps between two positions.
        padding: Zeros on both ends.
        dilation: Steps between two entries of the kernel.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def pointwise(cls, dims: int) -> Self:
        """Return the geometry of a kernel of size 1."""
        return cls((1,) * dims, (0,) * dims, (1,) * dims)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve an input (samples, channels, *positions) with a weight (out, channels, *kernel)."""
        convolve = _CONVOLVE[len(self.stride)]  # which autocast knows
        return convolve(x, weight, bias, self.stride, self.padding, self.dilation)

    def to_input(self, g: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the gradient of an input of a shape from that of the output."""
        return self._gradients(g, g.new_empty(1).expand(shape), weight, (True, False, False))[0]

    def to_weight(self, g: Tensor, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the gradient of a weight of a shape from that of the output, and the input."""
        return self._gradients(g, x, g.new_empty(1).expand(shape), (False, True, False))[1]

    def _gradients(self, g: Tensor, x: Tensor, weight: Tensor, mask: tuple[bool, ...]) -> tuple[Tensor, ...]:
        """Return the gradients of input, weight and bias; of what is not in the mask, only the shape counts."""
        none = (0,) * len(self.stride)
        of = (self.stride, self.padding, self.dilation, False, none, 1)
        found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(g, x, weight, None, *of, mask)
        return found


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The channels on one side of a convolution; a row of the narrow matrix (bond, channels x kernel) is a kernel.

    Args:
        geometry: The geometry of the kernels.
        shape: Channels and sizes of a kernel.
    """

    geometry: Geometry
    shape: tuple[int, ...]

    def project(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Convolve with the kernels: channels -> bond."""
        return self.geometry.convolve(x, self._weight(matrix))

    def add_(self, y: Tensor, h: Tensor, matrix: Tensor) -> Tensor:
        """Add the transposed convolution to y in place: bond -> channels."""
        return y.add_(self._back(y, h, matrix))

    def added(self, y: Tensor, h: Tensor, matrix: Tensor, scale: float) -> Tensor:
        """Return y + scale * the transposed convolution."""
        return torch.add(y, self._back(y, h, matrix), alpha=scale)

    def outer(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the gradient of the matrix."""
        bond = h.shape[1]
        return self.geometry.to_weight(h, x, (bond, *self.shape)).reshape(bond, -1)

    def outer_(self, found: Tensor, h: Tensor, x: Tensor) -> Tensor:
        """Add the gradient of the matrix to one in place."""
        return found.add_(self.outer(h, x))

    def _back(self, y: Tensor, h: Tensor, matrix: Tensor) -> Tensor:
        if math.prod(self.shape[1:]) == 1 and self.geometry == Geometry.pointwise(len(self.shape) - 1):
            return self.geometry.convolve(h, matrix.t().reshape(self.shape[0], -1, *self.shape[1:]))
        return self.geometry.to_input(h, self._weight(matrix), y.shape)

    def _weight(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(len(matrix), *self.shape)


@dataclasses.dataclass(frozen=True)
class Convolution(Product):
    """The product of a convolution without groups, padded with zeros.

    Args:
        geometry: Its geometry.
        kernel: Sizes of the kernel.
        channels: Number of input channels.
        outputs: Number of output channels.
    """

    geometry: Geometry
    kernel: tuple[int, ...]
    channels: int
    outputs: int

    @classmethod
    def of(cls, module: nn.Module) -> Self | None:
        """Return the product of a module; None if it is not a convolution of this kind.

        Args:
            module: The module.
        """
        if not isinstance(module, _ConvNd) or module.groups != 1 or module.padding_mode != "zeros":
            return None
        weight = module._parameters.get("weight")
        if weight is None or "_conv_forward" in vars(module):  # which the module computes in another way
            return None
        outputs, channels, *kernel = weight.shape  # the attributes may be older than the weight
        dims = len(kernel)
        stride, dilation = _each(module.stride, dims), _each(module.dilation, dims)
        reach = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        if module.padding == "same" and any(each % 2 for each in reach):  # torch pads one end by one more
            return None
        if isinstance(module.padding, str):
            padding = tuple(each // 2 if module.padding == "same" else 0 for each in reach)
        else:
            padding = _each(module.padding, dims)
        return cls(Geometry(stride, padding, dilation), tuple(kernel), channels, outputs)

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None, /) -> Tensor:
        """Return the output (samples, out, *positions) for an input (samples, in, *positions), or for one sample."""
        found = self.geometry.convolve(self.rows(input), weight, bias)
        return found if found.dim() == input.dim() else found.squeeze(0)

    def tokens(self, x: Tensor) -> int:
        """Return the number of output positions, up to those at the edges."""
        return x.numel() // max(self.channels * math.prod(self.geometry.stride), 1)

    def shape(self, tokens: int, weight: Tensor) -> tuple[int, ...]:
        """Return (1, in, *positions) for about as many output positions in each dimension."""
        dims = len(self.kernel)
        side = math.ceil(tokens ** (1 / dims))
        reach = (step * (size - 1) for step, size in zip(self.geometry.dilation, self.kernel, strict=True))
        around = zip(self.geometry.stride, reach, self.geometry.padding, strict=True)
        return 1, self.channels, *(max((side - 1) * stride + 1 + more - 2 * pad, 1) for stride, more, pad in around)

    def rows(self, x: Tensor) -> Tensor:
        """Return (samples, channels, *positions)."""
        return x if x.dim() == len(self.kernel) + 2 else x.unsqueeze(0)

    def sides(self, halves: Halves) -> tuple[Side, Side]:
        """Return the kernels of the input channels, and those of one position of the output channels."""
        dims = len(self.kernel)
        below = Kernels(self.geometry, (self.channels, *self.kernel))
        return below, Kernels(Geometry.pointwise(dims), (self.outputs, *(1,) * dims))

    def to_input(self, g: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the gradient (samples, in, *positions)."""
        whole = tuple(shape) if len(shape) == len(self.kernel) + 2 else (1, *shape)
        return self.geometry.to_input(g, weight, whole)

    def to_weight(self, g: Tensor, x: Tensor) -> Tensor:
        """Return the gradient (out, in, *kernel)."""
        return self.geometry.to_weight(g, x, (self.outputs, self.channels, *self.kernel))

    def to_bias(self, g: Tensor) -> Tensor:
        """Return the gradient (out)."""
        return g.sum((0, *range(2, g.dim())))


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """Return a number for each spatial dimension, from one for all of them or one for each, as torch takes both."""
    if isinstance(value, int):
        return (value,) * dims
    return tuple(value) * (dims if len(value) == 1 else 1)

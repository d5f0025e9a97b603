"""The base class of formats: options such as the rank, and the network that they imply for given modes."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from ..errors import FormatError, RankError
from ..network import Mode, Network, dense_of
from .common import zero_core
from .dense import check_tolerance, checked, default_modes, out_of_reach, relative_error
from .least_squares import least_squares
from .rank import Rank, spread_rank
from .search import capped, largest, smallest, spelled_rank

_HIGHEST = 1 << 40
"""A rank above that of any tensor."""


@dataclasses.dataclass(frozen=True)
class Format(abc.ABC):
    """How a tensor is factored.

    A format is a frozen dataclass of options with one abstract method, `network`. Parameter counts, shapes,
    reconstruction, application, cost, merging, files and a default decomposition are derived from that network.

    Examples:
        >>> from tensorfact.network import Mode
        >>> from tensorfact import TensorTrain
        >>> modes = (Mode("(layer role)", 144, "stack"), Mode("in", 768, "in"), Mode("out", 768, "out"))
        >>> TensorTrain(rank=16).num_parameters(modes)
        61440
    """

    @abc.abstractmethod
    def network(self, modes: Sequence[Mode]) -> Network:
        """Return the network of cores and legs for a tensor with these modes.

        Args:
            modes: The tensor's modes, in order.

        Returns:
            A network whose output legs are the modes' names in the same order.

        Raises:
            RankError: The modes do not admit the rank.
        """

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        """Compute the cores of the best approximation of a tensor at this format's ranks; called by `decompose`.

        The default is alternating least squares over the cores of the network. Override it with a better algorithm.

        Args:
            tensor: A finite, nonzero tensor in fp32 or fp64 with largest absolute value 1, one dimension per mode.
            modes: The tensor's modes.

        Returns:
            The cores by name, in the shapes of the network.

        Raises:
            FormatError: The format has no decomposition.
        """
        return least_squares(self.network(modes), tensor, self.given(modes))

    def given(self, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        """Return the cores with fixed values: those whose start is `given` in the network. They are never trained.

        Args:
            modes: The tensor's modes.

        Returns:
            The cores by name; empty by default.
        """
        return {}

    def within(self, tensor: Tensor, modes: Sequence[Mode], tolerance: float) -> Self:
        """Lower the rank to the smallest that keeps the relative error within a tolerance.

        The default searches one rank for all bonds by trial decompositions. Override it where singular values give the
        ranks directly.

        Args:
            tensor: The tensor, as in `factorize`.
            modes: The tensor's modes.
            tolerance: The largest relative error in the Frobenius norm.

        Returns:
            This format with explicit ranks, none above its own.
        """
        return smallest(self, modes, lambda each: _error(each, tensor, modes) <= tolerance)

    def decompose(
        self, tensor: Tensor, modes: Sequence[Mode] | None = None, *, tolerance: float | None = None
    ) -> Decomposition:
        """Decompose a dense tensor at this format's ranks, or at the lowest ranks that keep a tolerance.

        The tensor is scaled to a largest absolute value of 1 and decomposed in fp32, or in fp64 if it is fp64.

        Args:
            tensor: The tensor, one dimension per mode.
            modes: The tensor's modes; by default the last two are inputs and outputs, and the others are stacked.
            tolerance: The largest relative error in the Frobenius norm. The lowest ranks that keep it are used, none
                above the format's own; rank 'full' sets no upper bound.

        Returns:
            The format with explicit ranks, the cores, and the measured relative error.

        Raises:
            RankError: The modes do not admit the rank, or the tolerance cannot be reached at the format's rank.
            DataError: The tensor does not have the modes' sizes, or holds NaN or infinity.
            FormatError: The format has no decomposition.

        Examples:
            >>> import torch
            >>> from tensorfact import TensorTrain
            >>> a, b = torch.randn(5, 8, 2), torch.randn(2, 6)
            >>> found = TensorTrain("full").decompose(a @ b, tolerance=1e-3)
            >>> found.format.rank[-1], found.error < 1e-3
            (2, True)
        """
        modes = default_modes(tensor) if modes is None else tuple(modes)
        dense = checked(tensor, modes)
        if tolerance is not None:
            tolerance = check_tolerance(tolerance)
        scale = dense.abs().max()
        if not scale:
            format = self.explicit(modes) if tolerance is None else capped(self, 1, modes)
            return Decomposition(format, modes, idle(format, modes, dense), 0.0)
        dense = dense / scale
        format = self.explicit(modes) if tolerance is None else self.within(dense, modes, tolerance)
        found = format.factorize(dense, modes)
        given = format.given(modes)
        each = scale ** (1 / (len(found) - len(given)))  # spread over all cores to avoid overflow
        cores = {name: core if name in given else core * each for name, core in found.items()}
        error = relative_error(dense, dense_of(format.network(modes), cores) / scale)
        if tolerance is not None and not error <= tolerance:
            raise out_of_reach(self, tolerance, error)
        return Decomposition(format, modes, cores, error)

    def explicit(self, modes: Sequence[Mode]) -> Self:
        """Return this format with an explicit rank: resolve 'full' or a fraction of the dense size for these modes.

        Args:
            modes: The tensor's modes.

        Raises:
            RankError: Rank 1 already has more parameters than the fraction allows.

        Examples:
            >>> from tensorfact import CP
            >>> from tensorfact.network import Mode
            >>> modes = (Mode("layer", 3, "stack"), Mode("in", 4, "in"), Mode("out", 5, "out"))
            >>> CP("full").explicit(modes), CP(0.5).explicit(modes)
            (CP(rank=12, weights=False), CP(rank=2, weights=False))
        """
        rank = self.own_rank
        if rank is None or isinstance(rank, (int, tuple)):
            return self
        if isinstance(rank, str):
            highest = self.with_rank(_HIGHEST).fitted(modes)
            return highest if highest.own_rank != _HIGHEST else self.with_rank(1)  # the network has no bond
        return largest(self, modes, int(rank * math.prod(mode.size for mode in modes)))

    def fitted(self, modes: Sequence[Mode]) -> Self:
        """Return this format with its rank lowered to the highest that the modes admit.

        Args:
            modes: The tensor's modes.

        Raises:
            FormatError: The modes do not suit this format at any rank.
        """
        try:
            self.network(modes)
        except RankError as error:
            if not error.allowed or self.own_rank is None:
                raise
            return self.with_rank(error.allowed if len(error.allowed) > 1 else error.allowed[0])
        return self

    def ranks(self, limits: Mapping[str, int], modes: Sequence[Mode]) -> tuple[int, ...]:
        """Return the rank of every bond or mode, checked against its limit.

        Args:
            limits: The largest useful rank of each bond or mode, by its name.
            modes: The tensor's modes.

        Raises:
            RankError: Too many or too few ranks, or one above its limit.
        """
        return spread_rank(spelled_rank(self.explicit(modes)), limits, str(self))

    @property
    def own_rank(self) -> Rank | None:
        """The rank as given by the user; None for a format without a rank."""
        rank: Rank | None = getattr(self, "rank", None)
        return rank

    def with_rank(self, rank: Rank) -> Self:
        """Return this format with another rank.

        Args:
            rank: One rank, one per bond or mode, a fraction of the dense size, or 'full'.

        Raises:
            FormatError: The format has no rank.
        """
        if self.own_rank is None:
            raise FormatError(f"{self} has no rank", fix="use a format with a rank: TensorTrain(rank=4)")
        return dataclasses.replace(self, rank=rank)  # type: ignore[call-arg]  # a subclass's field

    def num_parameters(self, modes: Sequence[Mode]) -> int:
        """Return the number of trainable parameters for a tensor with these modes."""
        return self.network(modes).num_parameters

    def __str__(self) -> str:
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        shown = ", ".join(f"{name}={value}" for name, value in options.items() if value != defaults[name])
        return f"{type(self).__name__}({shown})"


def idle(format: Format, modes: Sequence[Mode], like: Tensor) -> dict[str, Tensor]:
    """Return trainable cores of the zero tensor: one core is zero, the others are random.

    Args:
        format: The format, with an explicit rank.
        modes: The tensor's modes.
        like: A tensor with the dtype and device of the result.
    """
    network, given = format.network(modes), format.given(modes)
    zero = zero_core(network).name
    generator = torch.Generator().manual_seed(0)
    cores = {}
    for name, shape in network.shapes().items():
        value = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        value = given.get(name, value * (name != zero) / math.sqrt(math.prod(shape)))
        cores[name] = value.to(like.device, like.dtype)
    return cores


def _error(format: Format, dense: Tensor, modes: Sequence[Mode]) -> float:
    return relative_error(dense, dense_of(format.network(modes), format.factorize(dense, modes)))


@dataclasses.dataclass(frozen=True, eq=False)
class Decomposition:
    """The result of decomposing a tensor: a format with explicit ranks and its cores.

    Args:
        format: The format, with the ranks of the cores.
        modes: The tensor's modes.
        cores: The cores by name, in the shapes of the format's network.
        error: The measured relative error |tensor - dense()| / |tensor| in the Frobenius norm; 0 for a zero tensor.
    """

    format: Format
    modes: tuple[Mode, ...]
    cores: Mapping[str, Tensor]
    error: float

    @property
    def network(self) -> Network:
        """The network of the cores."""
        return self.format.network(self.modes)

    @property
    def num_parameters(self) -> int:
        """Number of elements of the trained cores."""
        return self.format.num_parameters(self.modes)

    def dense(self) -> Tensor:
        """Return the reconstructed tensor, one dimension per mode."""
        return dense_of(self.network, self.cores)

    def __str__(self) -> str:
        return f"{self.format}: {self.num_parameters:,} numbers, relative error {self.error:.3g}"

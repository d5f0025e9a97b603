"""The contract of a format: rank choices, and the network they imply for given modes."""

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
"""Above every rank that a tensor allows."""


@dataclasses.dataclass(frozen=True)
class Format(abc.ABC):
    """How a tensor is factored.

    A format is a frozen dataclass of its options with one method, `network`. Counts, shapes, reconstruction,
    application, cost, merging, files and (unless `factorize` knows better) decomposition are derived from that network.

    Examples:
        >>> from tensorfact.network import Mode
        >>> from tensorfact import TensorTrain
        >>> modes = (Mode("(layer role)", 144, "stack"), Mode("in", 768, "in"), Mode("out", 768, "out"))
        >>> TensorTrain(rank=16).num_parameters(modes)
        61440
    """

    @abc.abstractmethod
    def network(self, modes: Sequence[Mode]) -> Network:
        """State the cores and legs for a tensor with these modes.

        Args:
            modes: The tensor's modes, in order.

        Returns:
            A network whose output legs are the modes' names in the same order.

        Raises:
            RankError: A rank that the modes do not allow.
        """

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        """Find cores that reconstruct a tensor as well as the ranks allow: what a format may do better in `decompose`.

        By default alternating least squares over the network's cores.

        Args:
            tensor: A finite tensor in fp32 or fp64 that is not zero, its largest entry 1; one dimension a mode.
            modes: Its modes.

        Returns:
            The cores by name, in the shapes of the network.

        Raises:
            FormatError: The format has no decomposition.
        """
        return least_squares(self.network(modes), tensor, self.given(modes))

    def given(self, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        """Return the cores that are part of the format: those that start `given` in the network, never trained.

        Args:
            modes: The tensor's modes.

        Returns:
            The cores by name; none by default.
        """
        return {}

    def within(self, tensor: Tensor, modes: Sequence[Mode], tolerance: float) -> Self:
        """Lower the rank as far as a relative error allows; for a format that can tell ranks from singular values.

        By default the smallest rank, one for all bonds, is searched by decomposing.

        Args:
            tensor: As in `factorize`.
            modes: Its modes.
            tolerance: The relative error in the Frobenius norm.

        Returns:
            This format with explicit ranks, none above its own.
        """
        return smallest(self, modes, lambda each: _error(each, tensor, modes) <= tolerance)

    def decompose(
        self, tensor: Tensor, modes: Sequence[Mode] | None = None, *, tolerance: float | None = None
    ) -> Decomposition:
        """Find cores that reconstruct a dense tensor as well as the ranks allow, or as a tolerance asks.

        It is computed in fp32, or in fp64 if the tensor is, whatever the magnitude of the numbers.

        Args:
            tensor: The tensor, one dimension a mode.
            modes: Its modes; by default the last two are inputs and outputs, those before are stacked.
            tolerance: The relative error in the Frobenius norm that is allowed; the lowest ranks that reach it are
                found, none above the format's own. Rank 'full' sets no bound.

        Returns:
            The format with its ranks, the cores, and the true relative error.

        Raises:
            RankError: A rank that the modes do not allow, or a tolerance that the format's rank does not reach.
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
            check_tolerance(tolerance)
        scale = dense.abs().max()
        if not scale:
            format = self.explicit(modes) if tolerance is None else capped(self, 1, modes)
            return Decomposition(format, modes, idle(format, modes, dense), 0.0)
        dense = dense / scale
        format = self.explicit(modes) if tolerance is None else self.within(dense, modes, tolerance)
        found = format.factorize(dense, modes)
        given = format.given(modes)
        each = scale ** (1 / (len(found) - len(given)))  # on all cores, so that none overflows
        cores = {name: core if name in given else core * each for name, core in found.items()}
        error = relative_error(dense, dense_of(format.network(modes), cores) / scale)
        if tolerance is not None and not error <= tolerance:
            raise out_of_reach(self, tolerance, error)
        return Decomposition(format, modes, cores, error)

    def explicit(self, modes: Sequence[Mode]) -> Self:
        """Return this format with its rank spelled out: what 'full' or a fraction of the dense size mean here.

        Args:
            modes: The tensor's modes.

        Raises:
            RankError: Even rank 1 takes more numbers than the fraction allows.

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
            return highest if highest.own_rank != _HIGHEST else self.with_rank(1)  # there is no bond
        return largest(self, modes, int(rank * math.prod(mode.size for mode in modes)))

    def fitted(self, modes: Sequence[Mode]) -> Self:
        """Return this format with its rank lowered to what the modes allow, if they allow less.

        Args:
            modes: The tensor's modes.

        Raises:
            FormatError: The format does not fit these modes at any such rank.
        """
        try:
            self.network(modes)
        except RankError as error:
            if not error.allowed or self.own_rank is None:
                raise
            return self.with_rank(error.allowed if len(error.allowed) > 1 else error.allowed[0])
        return self

    def ranks(self, limits: Mapping[str, int], modes: Sequence[Mode]) -> tuple[int, ...]:
        """Return the rank of every bond or mode, held against what the modes allow.

        Args:
            limits: The largest useful rank of each bond or mode, by its name.
            modes: The tensor's modes.

        Raises:
            RankError: Too many or too few ranks, or one above its limit.
        """
        return spread_rank(spelled_rank(self.explicit(modes)), limits, str(self))

    @property
    def own_rank(self) -> Rank | None:
        """The rank as it was given; None for a format that has none."""
        rank: Rank | None = getattr(self, "rank", None)
        return rank

    def with_rank(self, rank: Rank) -> Self:
        """Return this format at another rank.

        Args:
            rank: The rank.

        Raises:
            FormatError: The format has no rank.
        """
        if self.own_rank is None:
            raise FormatError(f"{self} has no rank", fix="convert to another format")
        return dataclasses.replace(self, rank=rank)  # type: ignore[call-arg]  # a subclass's field

    def num_parameters(self, modes: Sequence[Mode]) -> int:
        """Return how many numbers the trained factors of a tensor with these modes hold."""
        return self.network(modes).num_parameters

    def __str__(self) -> str:
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        shown = ", ".join(f"{name}={value}" for name, value in options.items() if value != defaults[name])
        return f"{type(self).__name__}({shown})"


def idle(format: Format, modes: Sequence[Mode], like: Tensor) -> dict[str, Tensor]:
    """Return cores that stand for zero and can be trained all the same: one is zero, the others are not.

    Args:
        format: The format.
        modes: The tensor's modes.
        like: A tensor of the dtype and on the device that the cores get.
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
    """Cores that stand for a tensor.

    Args:
        format: The format; its ranks are those that were found.
        modes: The tensor's modes.
        cores: The cores by name, in the shapes of the format's network.
        error: The relative error in the Frobenius norm, measured: |tensor - dense()| / |tensor|; 0 for a zero tensor.
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
        """How many numbers the cores hold."""
        return sum(core.numel() for core in self.cores.values())

    def dense(self) -> Tensor:
        """Return the tensor that the cores stand for, one dimension a mode."""
        return dense_of(self.network, self.cores)

    def __str__(self) -> str:
        return f"{self.format}: {self.num_parameters:,} numbers, relative error {self.error:.3g}"

"""The contract of a format: rank choices, and the network they imply for given modes."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import tensorly
import torch
from torch import Tensor

from ..errors import DataError, FormatError, RankError
from ..network import Core, Mode, Network
from .decomposition import Decomposition, dense_of
from .rank import Explicit, Rank, first_that, is_explicit, spread_rank

_HIGHEST = 1 << 40
"""Above every rank that a tensor allows."""


@dataclasses.dataclass(frozen=True)
class Format(abc.ABC):
    """How a tensor is factored.

    A format is a frozen dataclass of its options with one method, `network`. Counts, shapes, reconstruction,
    application, cost, merging and files are derived from that network. With `factorize` it can also decompose.

    Examples:
        >>> from tensorfact import Mode, TensorTrain
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
        """Find cores that reconstruct a tensor as well as the ranks allow: what a format adds to `decompose`.

        Args:
            tensor: A finite tensor in fp32 or fp64 that is not zero, its largest entry 1; one dimension a mode.
            modes: Its modes.

        Returns:
            The cores by name, in the shapes of the network.

        Raises:
            FormatError: The format has no decomposition.
        """
        raise FormatError(
            f"{type(self).__name__} cannot decompose a tensor",
            fix="override Format.factorize, or choose another format",
        )

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
        return self.smallest(modes, lambda each: _error(each, tensor, modes) <= tolerance)

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
            >>> import torch, tensorfact as tf
            >>> a, b = torch.randn(5, 8, 2), torch.randn(2, 6)
            >>> found = tf.TensorTrain("full").decompose(a @ b, tolerance=1e-3)
            >>> found.format.rank[-1], found.error < 1e-3
            (2, True)
        """
        modes = default_modes(tensor) if modes is None else tuple(modes)
        dense = _checked(tensor, modes)
        if tolerance is not None:
            check_tolerance(tolerance)
        scale = dense.abs().max()
        if not scale:
            format = self.explicit(modes) if tolerance is None else self.at(1, modes)
            return Decomposition(format, modes, idle(format.network(modes), dense), 0.0)
        dense = dense / scale
        format = self.explicit(modes) if tolerance is None else self.within(dense, modes, tolerance)
        found = format.factorize(dense, modes)
        each = scale ** (1 / len(found))  # on all cores, so that none overflows
        cores = {name: core * each for name, core in found.items()}
        error = _relative(dense, dense_of(format.network(modes), cores) / scale)
        if tolerance is not None and not error <= tolerance:
            raise out_of_reach(self, tolerance, error)
        return Decomposition(format, modes, cores, error)

    # -------------------------------------------------------------------------------------------------------- ranks

    def explicit(self, modes: Sequence[Mode]) -> Self:
        """Return this format with its rank spelled out: what 'full' or a fraction of the dense size mean here.

        Args:
            modes: The tensor's modes.

        Raises:
            RankError: Even rank 1 takes more numbers than the fraction allows.

        Examples:
            >>> from tensorfact import CP, Mode
            >>> modes = (Mode("layer", 3, "stack"), Mode("in", 4, "in"), Mode("out", 5, "out"))
            >>> CP("full").explicit(modes), CP(0.5).explicit(modes)
            (CP(rank=12), CP(rank=2))
        """
        rank = getattr(self, "rank", 1)
        if is_explicit(rank):
            return self
        if isinstance(rank, str):
            highest = self._ranked(_HIGHEST).fitted(modes)
            return highest if getattr(highest, "rank", 1) != _HIGHEST else self._ranked(1)  # there is no bond
        return self.largest(modes, int(rank * math.prod(mode.size for mode in modes)))

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
            if not error.allowed or not hasattr(self, "rank"):
                raise
            return self._ranked(error.allowed if len(error.allowed) > 1 else error.allowed[0])
        return self

    def at(self, rank: int, modes: Sequence[Mode]) -> Self:
        """Return this format at one rank for all bonds, or at its own where that is lower.

        Args:
            rank: The rank.
            modes: The tensor's modes.
        """
        own = getattr(self.explicit(modes), "rank", None)
        if own is None:
            return self
        lower = tuple(min(rank, each) for each in own) if isinstance(own, tuple) else min(rank, own)
        return self._ranked(lower).fitted(modes)

    def smallest(self, modes: Sequence[Mode], suits: Callable[[Self], bool]) -> Self:
        """Return this format at the smallest rank, one for all bonds, that suits; at its own if none does.

        Args:
            modes: The tensor's modes.
            suits: Whether a format suits; if it does, so do all with higher ranks.
        """
        own = getattr(self.explicit(modes), "rank", 1)
        high = max(own) if isinstance(own, tuple) else own
        return self.at(first_that(lambda rank: suits(self.at(rank, modes)), high), modes)

    def largest(self, modes: Sequence[Mode], budget: int) -> Self:
        """Return this format at the largest rank, one for all bonds, whose factors hold no more numbers than a budget.

        Args:
            modes: The tensor's modes.
            budget: How many numbers.

        Raises:
            RankError: Rank 1 takes more.
        """
        top = self if is_explicit(getattr(self, "rank", 1)) else self._ranked("full").explicit(modes)
        if top.num_parameters(modes) <= budget:
            return top
        own: Explicit = getattr(top, "rank", 1)
        high = max(own) if isinstance(own, tuple) else own
        rank = first_that(lambda rank: top.at(rank, modes).num_parameters(modes) > budget, high) - 1
        if rank < 1:
            raise RankError(
                f"{self}: a budget of {budget:,} numbers",
                expected=f"at least {top.at(1, modes).num_parameters(modes):,}, which rank 1 takes",
                got=f"{budget:,}",
                fix="allow more",
            )
        return top.at(rank, modes)

    def ranks(self, limits: Mapping[str, int], modes: Sequence[Mode]) -> tuple[int, ...]:
        """Return the rank of every bond or mode, held against what the modes allow.

        Args:
            limits: The largest useful rank of each bond or mode, by its name.
            modes: The tensor's modes.

        Raises:
            RankError: Too many or too few ranks, or one above its limit.
        """
        return spread_rank(getattr(self.explicit(modes), "rank", 1), limits, str(self))

    def _ranked(self, rank: Rank) -> Self:
        return dataclasses.replace(self, rank=rank)  # type: ignore[call-arg]

    def num_parameters(self, modes: Sequence[Mode]) -> int:
        """Return how many numbers the factors of a tensor with these modes hold."""
        return self.network(modes).num_parameters

    def __str__(self) -> str:
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        shown = ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)
        return f"{type(self).__name__}({shown})"


def default_modes(tensor: Tensor) -> tuple[Mode, ...]:
    """Return modes for a tensor of which nothing is known: the last two are inputs and outputs, the others stacked."""
    if not isinstance(tensor, Tensor) or not tensor.ndim:
        raise DataError("decompose: tensor", expected="a torch.Tensor of at least one dimension", got=repr(tensor)[:80])
    sides = ["stack"] * (tensor.ndim - 2) + (["in", "out"] if tensor.ndim > 1 else ["out"])
    return tuple(Mode(f"m{k}", size, side) for k, (size, side) in enumerate(zip(tensor.shape, sides, strict=True)))  # type: ignore[arg-type]


def check_tolerance(tolerance: object) -> None:
    """Raise unless this is a relative error that can be asked for.

    Raises:
        RankError: It is no number in (0, 1).
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < 1:
        raise RankError(
            "tolerance", expected="a relative error, 0 < tolerance < 1", got=repr(tolerance), fix="tolerance=0.01"
        )


def out_of_reach(format: Format, tolerance: float, error: float) -> RankError:
    """Return the error of a tolerance that a format does not reach.

    Args:
        format: The format.
        tolerance: The relative error that was asked for.
        error: The one that was reached.
    """
    return RankError(
        f"{format}: tolerance {tolerance:g}",
        expected="a relative error that a rank of this format reaches",
        got=f"{error:.3g}",
        cause="a rank that is too low, or a tolerance below what the dtype can show",
        fix="rank='full', a larger tolerance, or fp64",
    )


def arranged(modes: Sequence[Mode]) -> tuple[Mode, ...]:
    """Return the modes as inputs, stacks, outputs: the paper's U, Sigma, V. The last one's factor starts at zero."""
    return tuple(mode for side in ("in", "stack", "out") for mode in modes if mode.side == side)


def grown(core: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a core padded with zeros to its shape: ranks beyond what a decomposition needs hold nothing."""
    missing = [want - have for have, want in zip(core.shape, shape, strict=True)]
    return torch.nn.functional.pad(core, [n for each in reversed(missing) for n in (0, each)])


def idle(network: Network, like: Tensor) -> dict[str, Tensor]:
    """Return cores that stand for zero and can be trained all the same: one is zero, the others are not.

    Args:
        network: The network.
        like: A tensor of the dtype and on the device that the cores get.
    """
    zero = zero_core(network).name
    generator = torch.Generator().manual_seed(0)
    cores = {}
    for name, shape in network.shapes().items():
        value = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu") / math.sqrt(math.prod(shape))
        cores[name] = (value * (name != zero)).to(like.device, like.dtype)
    return cores


def zero_core(network: Network) -> Core:
    """Return the core that starts at zero; the first one of a network that has none."""
    return next((core for core in network.cores if core.start == "zero"), network.cores[0])


def mode_sizes(modes: Sequence[Mode]) -> dict[str, int]:
    """Return the sizes of the modes by name."""
    return {mode.name: mode.size for mode in modes}


def enough(unfolding: Tensor, share: float) -> int:
    """Return the smallest rank of a matrix that leaves a given error.

    Args:
        unfolding: The matrix, or matrices (..., rows, columns) that get one rank.
        share: The allowed error in the Frobenius norm.
    """
    energies = torch.linalg.svdvals(unfolding).double().square().reshape(-1, min(unfolding.shape[-2:])).sum(0)
    tails = energies.flip(0).cumsum(0).flip(0)  # tails[r] is what rank r leaves
    return max(int((tails > share**2).sum()), 1)


@contextmanager
def tensorly_on_torch() -> Iterator[None]:
    """Let tensorly work on torch tensors here and in this thread only."""
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        yield


def _checked(tensor: Tensor, modes: Sequence[Mode]) -> Tensor:
    """Return a tensor in at least fp32, where linear algebra exists, if it is finite and has the modes' sizes."""
    names = [mode.name for mode in modes if isinstance(mode, Mode)]
    if len(set(names)) < len(modes):
        raise DataError("decompose: modes", expected="Mode objects with different names", got=repr(modes))
    sizes = tuple(mode.size for mode in modes)
    plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
    eight_bits = plain and tensor.is_floating_point() and tensor.itemsize < 2  # which torch promotes to nothing
    if not plain or tuple(tensor.shape) != sizes or tensor.is_complex() or eight_bits:
        got = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise DataError(
            "decompose: tensor", expected=f"dense real numbers of shape {sizes}, one dimension a mode", got=got
        )
    if not math.prod(sizes):
        raise DataError("decompose: tensor", expected="a tensor that holds numbers", got=f"shape {sizes}")
    dense = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
    if not bool(dense.isfinite().all()):
        count = int((~dense.isfinite()).sum())
        raise DataError(
            f"decompose: {count:,} of {dense.numel():,} numbers are NaN or infinite",
            cause="weights that diverged, or a damaged file",
            fix="repair them, for instance with torch.nan_to_num",
        )
    return dense


def _error(format: Format, dense: Tensor, modes: Sequence[Mode]) -> float:
    return _relative(dense, dense_of(format.network(modes), format.factorize(dense, modes)))


def _relative(dense: Tensor, found: Tensor) -> float:
    return float(torch.linalg.vector_norm(dense - found)) / float(torch.linalg.vector_norm(dense))

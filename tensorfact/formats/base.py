"""The contract of a format: rank choices, and the network they imply for given modes."""

from __future__ import annotations

import abc
import dataclasses
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import tensorly
import torch
from torch import Tensor

from ..errors import FormatError, RankError
from ..network import Mode, Network

Rank = int | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Format(abc.ABC):
    """How a tensor is factored.

    A format is a frozen dataclass of its options with one method, `network`. Counts, shapes, reconstruction,
    application, cost, merging and files are derived from that network. `decompose` is optional.

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

    def decompose(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Find cores that reconstruct a dense tensor as well as the ranks allow.

        Args:
            tensor: The tensor, one dimension a mode.
            modes: Its modes.

        Returns:
            The cores by name, in fp32 or fp64.

        Raises:
            FormatError: The format has no decomposition.
        """
        raise FormatError(
            f"{type(self).__name__} cannot decompose a tensor",
            fix="override Format.decompose, or choose another format",
        )

    def num_parameters(self, modes: Sequence[Mode]) -> int:
        """Return how many numbers the factors of a tensor with these modes hold."""
        return self.network(modes).num_parameters

    def __str__(self) -> str:
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        shown = ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)
        return f"{type(self).__name__}({shown})"


def checked_rank(rank: int | Sequence[int], owner: str) -> Rank:
    """Return a rank as an int or a tuple of ints.

    Args:
        rank: What the user gave: one rank, or one per bond or mode.
        owner: The format's name, for messages.

    Raises:
        RankError: It is neither an int nor a sequence of ints, or one is below 1.
    """
    if isinstance(rank, (tuple, list)) and rank:
        return tuple(checked_count(each, owner) for each in rank)
    return checked_count(rank, owner)


def checked_count(rank: object, owner: str) -> int:
    """Return a rank that is a single int.

    Args:
        rank: What the user gave.
        owner: The format's name, for messages.

    Raises:
        RankError: It is no int, or below 1.
    """
    try:
        count = 0 if isinstance(rank, bool) else operator.index(rank)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if count < 1:
        raise RankError(f"{owner}: rank", expected="an int of at least 1", got=repr(rank), fix=f"{owner}(rank=4)")
    return count


def spread_rank(rank: Rank, limits: Mapping[str, int], owner: str) -> tuple[int, ...]:
    """Give every bond or mode its rank and hold it against what the modes allow.

    Args:
        rank: One rank for all, or one each.
        limits: The largest useful rank of each bond or mode, by its name.
        owner: The format, for messages.

    Returns:
        One rank for each of `limits`.

    Raises:
        RankError: Too many or too few ranks, or one above its limit.
    """
    ranks = (rank,) * len(limits) if isinstance(rank, int) else rank
    allowed = tuple(min(r, limit) for r, limit in zip(ranks, limits.values(), strict=False))
    if len(ranks) != len(limits) or allowed != ranks:
        fits = len(ranks) == len(limits)
        bounds = ", ".join(f"{name} <= {limit}" for name, limit in limits.items())
        raise RankError(
            f"{owner}",
            expected=f"{'' if fits else f'{len(limits)} rank(s), '}{bounds or 'no rank'}",
            got=f"rank={rank}",
            cause="" if not fits else "a mode of the tensor is smaller than the rank",
            fix=f"use rank={allowed if fits else tuple(limits.values())} or less",
            allowed=allowed if fits else None,
        )
    return ranks


def arranged(modes: Sequence[Mode]) -> tuple[Mode, ...]:
    """Return the modes as inputs, stacks, outputs: the paper's U, Sigma, V. The last one's factor starts at zero."""
    return tuple(mode for side in ("in", "stack", "out") for mode in modes if mode.side == side)


def grown(core: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a core padded with zeros to its shape: ranks beyond what a decomposition needs hold nothing."""
    missing = [want - have for have, want in zip(core.shape, shape, strict=True)]
    return torch.nn.functional.pad(core, [n for each in reversed(missing) for n in (0, each)])


def mode_sizes(modes: Sequence[Mode]) -> dict[str, int]:
    """Return the sizes of the modes by name."""
    return {mode.name: mode.size for mode in modes}


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in at least fp32, where linear algebra exists; never integer or half precision."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def matrix_limit(rows: Sequence[Mode], columns: Sequence[Mode]) -> int:
    """Return the largest rank of the matrix between two sets of modes."""
    return min(math.prod(m.size for m in rows), math.prod(m.size for m in columns))


@contextmanager
def tensorly_on_torch() -> Iterator[None]:
    """Let tensorly work on torch tensors here and in this thread only."""
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        yield

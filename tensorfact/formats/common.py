"""Helpers shared by formats: mode order, zero cores, ranks from singular values, and tensorly on torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tensorly
import torch
from torch import Tensor

from ..errors import FormatError
from ..network import Core, Mode, Network
from ..network.starts import ZERO

_MOST_MODES = 64
"""The most modes of a tensor: torch computes with no more dimensions."""


def _check_count(modes: Sequence[Mode]) -> None:
    if len(modes) > _MOST_MODES:
        raise FormatError(
            "modes of a tensor",
            expected=f"at most {_MOST_MODES}: a tensor of torch has no more dimensions",
            got=f"{len(modes):,}",
            cause="a damaged file",
            fix="merge modes in the plan: plan.arranged('(layer role) in out')",
        )


def arranged(modes: Sequence[Mode]) -> tuple[Mode, ...]:
    """Return the modes in the order inputs, stacks, outputs: U, Sigma, V of FacT."""
    _check_count(modes)
    return tuple(mode for side in ("in", "stack", "out") for mode in modes if mode.side == side)


def in_pairs(modes: Sequence[Mode], owner: str) -> tuple[list[Mode], list[Mode]]:
    """Return the input and the output modes, of which there must be two or more, in equal number.

    Args:
        modes: The tensor's modes.
        owner: The format, for messages.

    Raises:
        FormatError: There are fewer than two inputs, or the numbers of inputs and outputs differ.
    """
    _check_count(modes)
    inputs, outputs = ([mode for mode in modes if mode.side == side] for side in ("in", "out"))
    if len(inputs) != len(outputs) or len(inputs) < 2:
        raise FormatError(
            f"{owner}: modes {' '.join(mode.name for mode in modes)}",
            expected="two or more input modes, and the same number of output modes",
            got=f"{len(inputs)} input and {len(outputs)} output modes",
            fix="split them in the plan: plan.split('in', {'in1': 24, 'in2': 32})",
        )
    return inputs, outputs


def mode_sizes(modes: Sequence[Mode]) -> dict[str, int]:
    """Return the sizes of the modes by name."""
    _check_count(modes)
    return {mode.name: mode.size for mode in modes}


def grown(core: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a core padded with zeros to a shape, for ranks above those that a decomposition found."""
    missing = [want - have for have, want in zip(core.shape, shape, strict=True)]
    return torch.nn.functional.pad(core, [n for each in reversed(missing) for n in (0, each)])


def zero_core(network: Network) -> Core:
    """Return the core that starts at zero, or else the first trained core."""
    trained = [core for core in network.cores if core.trained]
    return next((core for core in trained if core.start == ZERO), trained[0])


def enough(unfolding: Tensor, share: float) -> int:
    """Return the smallest rank at which a truncated SVD keeps an error bound.

    Args:
        unfolding: A matrix, or a batch of matrices (..., rows, columns) that share one rank.
        share: The largest absolute error in the Frobenius norm.
    """
    energies = torch.linalg.svdvals(unfolding).double().square().reshape(-1, min(unfolding.shape[-2:])).sum(0)
    tails = energies.flip(0).cumsum(0).flip(0)  # tails[r] is the squared error at rank r
    return max(int((tails > share**2).sum()), 1)


@contextmanager
def tensorly_on_torch() -> Iterator[None]:
    """Run tensorly with its torch backend inside the block, in this thread only."""
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        yield

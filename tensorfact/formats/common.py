"""What formats share: the order of modes, cores that hold nothing, ranks from singular values, tensorly on torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tensorly
import torch
from torch import Tensor

from ..errors import FormatError
from ..network import Core, Mode, Network
from ..network.starts import ZERO


def arranged(modes: Sequence[Mode]) -> tuple[Mode, ...]:
    """Return the modes as inputs, stacks, outputs: the paper's U, Sigma, V. The last one's factor starts at zero."""
    return tuple(mode for side in ("in", "stack", "out") for mode in modes if mode.side == side)


def in_pairs(modes: Sequence[Mode], owner: str) -> tuple[list[Mode], list[Mode]]:
    """Return the inputs and the outputs, if there are two or more, and as many of one as of the other.

    Args:
        modes: The modes.
        owner: The format, for messages.

    Raises:
        FormatError: There are not.
    """
    inputs, outputs = ([mode for mode in modes if mode.side == side] for side in ("in", "out"))
    if len(inputs) != len(outputs) or len(inputs) < 2:
        raise FormatError(
            f"{owner}: modes {' '.join(mode.name for mode in modes)}",
            expected="two or more input modes, and as many output modes",
            got=f"{len(inputs)} and {len(outputs)}",
            fix="split them in the plan: plan.split('in', {'in1': 24, 'in2': 32})",
        )
    return inputs, outputs


def mode_sizes(modes: Sequence[Mode]) -> dict[str, int]:
    """Return the sizes of the modes by name."""
    return {mode.name: mode.size for mode in modes}


def grown(core: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a core padded with zeros to its shape: ranks beyond what a decomposition needs hold nothing."""
    missing = [want - have for have, want in zip(core.shape, shape, strict=True)]
    return torch.nn.functional.pad(core, [n for each in reversed(missing) for n in (0, each)])


def zero_core(network: Network) -> Core:
    """Return the core that starts at zero; the first trained one of a network that has none."""
    trained = [core for core in network.cores if core.trained]
    return next((core for core in trained if core.start == ZERO), trained[0])


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

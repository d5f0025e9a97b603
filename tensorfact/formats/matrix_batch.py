"""The matrix-batch format: LoRA, one low-rank matrix per slice."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from ..network import Core, Mode, Network
from .common import enough, mode_sizes
from .per_slice import PerSlice
from .rank import Rank, checked_rank, matrix_limit


@dataclasses.dataclass(frozen=True)
class MatrixBatch(PerSlice):
    """Two matrices A (inputs, rank) and B (rank, outputs) for every coordinate of the stack modes. B starts at zero.

    On a plan of the q and v projections this is LoRA.

    Args:
        rank: The rank of every matrix; a fraction of the dense size; or 'full'.

    Raises:
        RankError: A rank below 1, or (once the modes are known) above the smaller side of the matrices.

    Source: E. Hu et al., LoRA, ICLR 2022; FacT's matrix-batch case: Jie & Deng, AAAI 2023.

    Examples:
        >>> from tensorfact import MatrixBatch
        >>> from tensorfact.network import Mode
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> print(MatrixBatch(rank=4).network(modes))
        A[layer in _r] B[layer _r out] -> layer in out
    """

    rank: Rank

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_rank(self.rank, "MatrixBatch", several=False))

    def slice_network(self, modes: Sequence[Mode]) -> Network:
        """Return the network of the two matrices of a slice."""
        _, rows, columns = self._sides(modes)
        (rank,) = self.ranks({"rank": matrix_limit(rows, columns)}, modes)
        inputs, outputs = (tuple(mode.name for mode in side) for side in (rows, columns))
        cores = (Core("A", (*inputs, "_r")), Core("B", ("_r", *outputs), "zero"))
        return Network(cores, tuple(mode.name for mode in modes), {**mode_sizes(modes), "_r": rank})

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Decompose every slice by a truncated SVD, which is optimal (Eckart and Young 1936)."""
        network = self.network(modes)
        u, s, vh = torch.linalg.svd(self._slices(tensor, modes), full_matrices=False)
        rank, shapes = network.sizes["_r"], network.shapes()
        a, b = (u * s[:, None])[..., :rank], vh[:, :rank]
        return {"A": a.reshape(shapes["A"]), "B": b.reshape(shapes["B"])}

    def within(self, tensor: Tensor, modes: Sequence[Mode], tolerance: float) -> Self:
        """Find the smallest common rank at which all slices together keep the tolerance."""
        share = tolerance * float(torch.linalg.vector_norm(tensor))
        high = self.network(modes).sizes["_r"]
        return dataclasses.replace(self, rank=min(enough(self._slices(tensor, modes), share), high))

    def _slices(self, tensor: Tensor, modes: Sequence[Mode]) -> Tensor:
        """Return the slices as a batch of matrices (stack, inputs, outputs)."""
        names, sides = [mode.name for mode in modes], self._sides(modes)
        order = [names.index(mode.name) for side in sides for mode in side]
        return tensor.permute(order).reshape([math.prod(mode.size for mode in side) for side in sides])

    @staticmethod
    def _sides(modes: Sequence[Mode]) -> list[tuple[Mode, ...]]:
        return [tuple(mode for mode in modes if mode.side == side) for side in ("stack", "in", "out")]

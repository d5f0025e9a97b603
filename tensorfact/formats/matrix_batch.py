"""The matrix-batch format: LoRA, one low-rank matrix a slice."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..network import Core, Mode, Network
from .base import Format, checked_count, matrix_limit, mode_sizes, spread_rank, wide


@dataclasses.dataclass(frozen=True)
class MatrixBatch(Format):
    """Two matrices A (inputs, rank) and B (rank, outputs) for every coordinate of the stack modes. B starts at zero.

    On a plan that picks q and v this is LoRA.

    Args:
        rank: The rank of every matrix.

    Raises:
        RankError: A rank below 1, or (once the modes are known) above the smaller side of the matrices.

    Source: E. Hu et al., LoRA, ICLR 2022; FacT's matrix-batch case: Jie & Deng, AAAI 2023.

    Examples:
        >>> from tensorfact import MatrixBatch, Mode
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> print(MatrixBatch(rank=4).network(modes))
        A[layer in _r] B[layer _r out] -> layer in out
    """

    rank: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_count(self.rank, "MatrixBatch"))

    def network(self, modes: Sequence[Mode]) -> Network:
        """State the two stacks of matrices."""
        stack, rows, columns = self._sides(modes)
        (rank,) = spread_rank(self.rank, {"rank": matrix_limit(rows, columns)}, str(self))
        batch, inputs, outputs = (tuple(mode.name for mode in side) for side in (stack, rows, columns))
        a = Core("A", (*batch, *inputs, "_r"))
        b = Core("B", (*batch, "_r", *outputs), "zero")
        return Network((a, b), tuple(mode.name for mode in modes), {**mode_sizes(modes), "_r": rank})

    def decompose(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Decompose by one truncated SVD a slice, optimal by Eckart and Young (1936)."""
        network, names = self.network(modes), [mode.name for mode in modes]
        stack, rows, columns = self._sides(modes)
        order = [names.index(mode.name) for mode in (*stack, *rows, *columns)]
        sizes = [math.prod(mode.size for mode in side) for side in (stack, rows, columns)]
        u, s, vh = torch.linalg.svd(wide(tensor).permute(order).reshape(sizes), full_matrices=False)
        rank, shapes = network.sizes["_r"], network.shapes()
        a, b = (u * s[:, None])[..., :rank], vh[:, :rank]
        return {"A": a.reshape(shapes["A"]), "B": b.reshape(shapes["B"])}

    @staticmethod
    def _sides(modes: Sequence[Mode]) -> list[tuple[Mode, ...]]:
        return [tuple(mode for mode in modes if mode.side == side) for side in ("stack", "in", "out")]

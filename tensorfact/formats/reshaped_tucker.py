"""Tucker with reshaped slices, as in the released code of FacT-TK."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ..common.checks import whole_number
from ..errors import FormatError
from ..network import Core, Mode, Network
from .base import Format
from .common import mode_sizes
from .rank import Rank, checked_rank

_HIGHEST = 128
"""The highest rank; A and B grow with its third power, to 100 MB each in fp32 for 12 matrices."""


@dataclasses.dataclass(frozen=True)
class ReshapedTucker(Format):
    """Tucker in which a chunked matrix takes its part of the core by a reshape, as in the released code of FacT-TK.

    The last stack mode counts the matrices of a layer: first those of Tucker's equation, then the m chunks of a matrix
    that widens (an MLP's first), then the m chunks of one that narrows (its second). With M[a, b, l] the sum over c of
    C[a, b, c] U2[l, c], a matrix l of the first kind is U1 M[:, :, l] U3^T. The m chunks of the other two are flattened
    with the chunk index fastest and read again with it slowest, as `reshape` does in the released code; where the
    matrix narrows, U1 and U3 change places.

    A, B and E hold zeros and ones, which are part of the format and not stored. The format has no decomposition: train
    it, or convert it to `Tucker`.

    Args:
        rank: One rank for all modes; a fraction of the dense size; or 'full'.
        whole: The number of matrices of a layer that follow Tucker's equation; 4 for q, k, v and the projection.

    Raises:
        RankError: A rank below 1, or (once the modes are known) above 128 or the size of the inputs or outputs.
        FormatError: The modes are not one input, one output and at least one stack mode, the last one joins several
            axes, or the matrices after the first `whole` are not two halves.

    Source: FacT-TK: Jie & Deng, AAAI 2023, `fact_tk.py` of the released code.

    Examples:
        >>> from tensorfact.formats import ReshapedTucker
        >>> from tensorfact.network import Mode
        >>> sides = {"layer": "stack", "role": "stack", "in": "in", "out": "out"}
        >>> modes = [Mode(name, size, sides[name]) for name, size in zip(sides, (12, 12, 768, 768))]
        >>> ReshapedTucker(rank=8).num_parameters(modes)
        13952
    """

    rank: Rank
    whole: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_rank(self.rank, "ReshapedTucker", several=False))
        whole = whole_number(self.whole, "ReshapedTucker: whole", FormatError, least=0, example=4)
        object.__setattr__(self, "whole", whole)

    def network(self, modes: Sequence[Mode]) -> Network:
        """State the factors, the core, and the cores of zeros and ones that reshape it."""
        stack, width, height = self._sides(modes)
        *layers, role = (mode.name for mode in stack)
        slices = mode_sizes(stack)
        limit = min(width.size, height.size, _HIGHEST)
        (rank,) = self.ranks({"rank": limit}, modes)
        cores = (  # in this order the trained ones are charged for the sums that have more than one term
            Core("U1", (width.name, "_in")),
            Core("A", (role, "_in", "_row", "_wide"), "given", trained=False),
            Core("B", (role, "_out", "_row", "_wide"), "given", trained=False),
            Core("U2", (*layers, "_role", "_stack")),
            Core("C", ("_row", "_column", "_stack")),
            Core("E", (role, "_wide", "_column", "_role"), "given", trained=False),
            Core("U3", (height.name, "_out"), "zero"),
        )
        bonds = dict.fromkeys(("_in", "_out", "_row", "_column", "_wide", "_stack"), rank)
        sizes = {**mode_sizes(modes), **bonds, "_role": slices[role]}
        return Network(cores, tuple(mode.name for mode in modes), sizes)

    def given(self, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Return A, B and E.

        E takes entry (column, role) of a chunked matrix to entry (wide, chunk). A joins U1 to the row and B joins U3 to
        the wide leg; where the matrix narrows, it is the other way around.
        """
        network = self.network(modes)
        roles, rank = network.sizes["_role"], network.sizes["_in"]
        chunks = (roles - self.whole) // 2
        one = torch.eye(rank, device="cpu")
        moved = torch.zeros(roles, rank, rank, roles, device="cpu")
        for role in range(self.whole):
            moved[role, :, :, role] = one
        for first in (self.whole, self.whole + chunks):
            same = torch.eye(rank * chunks, device="cpu")
            last = first + chunks
            moved[first:last, :, :, first:last] = same.reshape(chunks, rank, rank, chunks)
        rows = one[:, :, None].expand(rank, rank, rank)  # (either side's leg, row, wide)
        wide = one[:, None, :].expand(rank, rank, rank)
        narrows = (torch.arange(roles, device="cpu") >= self.whole + chunks)[:, None, None, None]
        return {"A": torch.where(narrows, wide, rows), "B": torch.where(narrows, rows, wide), "E": moved}

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Raise, as there is no decomposition."""
        raise FormatError(f"{self} has no decomposition", fix="use Tucker(rank=8), which has the same size")

    def _sides(self, modes: Sequence[Mode]) -> tuple[list[Mode], Mode, Mode]:
        """Return the stack modes, the input and the output."""
        stack, inputs, outputs = ([mode for mode in modes if mode.side == side] for side in ("stack", "in", "out"))
        if not stack or len(inputs) != 1 or len(outputs) != 1:
            raise FormatError(
                f"{self}: modes {' '.join(mode.name for mode in modes)}",
                expected="one input mode, one output mode, and stack modes of which the last one counts the matrices",
                got=f"{len(inputs)} input, {len(outputs)} output and {len(stack)} stack modes",
                fix="plan.arranged('layer role in out')",
            )
        chunked = stack[-1].size - self.whole
        if " " in stack[-1].name:
            raise FormatError(
                f"{self}: mode {stack[-1].name}",
                expected="a last stack mode of one axis, which counts the matrices of a layer",
                got=stack[-1].name,
                fix="plan.arranged('layer role in out')",
            )
        if chunked < 0 or chunked % 2:
            raise FormatError(
                f"{self}: mode {stack[-1].name}",
                expected=f"{self.whole} matrices and two matrices of equally many chunks",
                got=f"size {stack[-1].size}",
                fix=f"whole={stack[-1].size}" if chunked < 0 else f"whole={self.whole + 1}",
            )
        return stack, inputs[0], outputs[0]

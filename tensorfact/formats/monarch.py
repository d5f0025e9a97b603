"""The Monarch format and its generalisation, the block tensor train."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import FormatError
from ..network import Core, Mode, Network
from .common import mode_sizes
from .per_slice import PerSlice
from .rank import Rank, checked_rank, matrix_limit


@dataclasses.dataclass(frozen=True)
class Monarch(PerSlice):
    """Two block-diagonal matrices with a transposition between them, for every slice. The second starts at zero.

    The plan splits the inputs into k blocks of size p, and the outputs into s groups of size q, as in
    `plan.split("in", {"k": 4, "p": None})`. Every pair of k and q has a p x s block, which is factored at low rank:
    rank 1 is Monarch, a higher rank is a block tensor train.

    Args:
        rank: The rank of every block; a fraction of the dense size; or 'full'.

    Raises:
        RankError: A rank below 1, or (once the modes are known) above the smaller side of a block.
        FormatError: The modes are not two inputs and two outputs.

    Source: T. Dao et al., Monarch, ICML 2022; MoRe: W. Tan et al., 2024; block tensor train: S. Qiu et al., ICML 2024.

    Examples:
        >>> from tensorfact.network import Mode
        >>> from tensorfact.formats import Monarch
        >>> modes = (Mode("k", 4, "in"), Mode("p", 192, "in"), Mode("s", 192, "out"), Mode("q", 4, "out"))
        >>> print(Monarch().network(modes))
        L[k p q _r] R[k q _r s] -> k p s q
        >>> Monarch().num_parameters(modes)
        6144
    """

    rank: Rank = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_rank(self.rank, "Monarch", several=False))

    def slice_network(self, modes: Sequence[Mode]) -> Network:
        """Return the network of the two matrices of a slice."""
        k, p, s, q = self._sides(modes)
        (rank,) = self.ranks({"rank": matrix_limit([p], [s])}, modes)
        cores = (Core("L", (k.name, p.name, q.name, "_r")), Core("R", (k.name, q.name, "_r", s.name), "zero"))
        return Network(cores, tuple(mode.name for mode in modes), {**mode_sizes(modes), "_r": rank})

    def slice_factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        """Decompose every block by a truncated SVD, which is optimal."""
        names, (k, p, s, q) = [mode.name for mode in modes], self._sides(modes)
        blocks = tensor.permute([names.index(mode.name) for mode in (k, q, p, s)])
        u, values, vh = torch.linalg.svd(blocks, full_matrices=False)
        rank = self.slice_network(modes).sizes["_r"]
        left, right = u[..., :rank] * values[..., None, :rank], vh[..., :rank, :]
        return {"L": left.permute(0, 2, 1, 3), "R": right}

    def _sides(self, modes: Sequence[Mode]) -> tuple[Mode, ...]:
        inputs, outputs = ([mode for mode in modes if mode.side == side] for side in ("in", "out"))
        if len(inputs) != 2 or len(outputs) != 2:
            raise FormatError(
                f"{self}: modes {' '.join(mode.name for mode in modes)}",
                expected="two input modes (block, within) and two output modes (within, block)",
                got=f"{len(inputs)} input and {len(outputs)} output modes",
                fix="split them in the plan: plan.split('in', {'k': 4, 'p': None})",
            )
        return (*inputs, *outputs)

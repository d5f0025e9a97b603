"""The Hadamard format: LoHa."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..network import Core, Mode, Network
from .common import mode_sizes
from .per_slice import PerSlice
from .rank import Rank, check_count, checked_rank, matrix_limit


@dataclasses.dataclass(frozen=True)
class Hadamard(PerSlice):
    """The elementwise product of low-rank matrices for every slice: A1 B1 * A2 B2. The last B starts at zero.

    Two matrices of rank r give a matrix of rank up to r^2.

    Args:
        rank: The rank of every matrix; a fraction of the dense size; or 'full'.
        matrices: Number of low-rank matrices that are multiplied.

    Raises:
        RankError: A rank or a number of matrices below 1, or (once the modes are known) a rank above the smaller side.

    Source: N. Hyeon-Woo et al., FedPara, ICLR 2022; LoHa: S. Yeh et al., LyCORIS, ICLR 2024.

    Examples:
        >>> from tensorfact.formats import Hadamard
        >>> from tensorfact.network import Mode
        >>> modes = (Mode("in", 768, "in"), Mode("out", 768, "out"))
        >>> print(Hadamard(rank=8).network(modes))
        A1[in _1] B1[_1 out] A2[in _2] B2[_2 out] -> in out
        >>> Hadamard(rank=8).num_parameters(modes)
        24576
    """

    rank: Rank
    matrices: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_rank(self.rank, "Hadamard", several=False))
        object.__setattr__(self, "matrices", check_count(self.matrices, "Hadamard: matrices"))

    def slice_network(self, modes: Sequence[Mode]) -> Network:
        """Return the network of the factors of all matrices in a slice."""
        inputs, outputs = ([mode for mode in modes if mode.side == side] for side in ("in", "out"))
        (rank,) = self.ranks({"rank": matrix_limit(inputs, outputs)}, modes)
        cores = []
        for k in range(1, self.matrices + 1):
            cores.append(Core(f"A{k}", (*(mode.name for mode in inputs), f"_{k}")))
            start = "zero" if k == self.matrices else "normal"
            cores.append(Core(f"B{k}", (f"_{k}", *(mode.name for mode in outputs)), start))
        bonds = {f"_{k}": rank for k in range(1, self.matrices + 1)}
        return Network(tuple(cores), tuple(mode.name for mode in modes), {**mode_sizes(modes), **bonds})

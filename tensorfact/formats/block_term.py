"""The block-term format."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..network import Core, Mode, Network
from .base import Format
from .common import arranged, mode_sizes
from .rank import Rank, check_count, checked_rank


@dataclasses.dataclass(frozen=True)
class BlockTerm(Format):
    """A sum of Tucker terms, indexed by an extra leg `_0` of every core. The last factors start at zero.

    One block gives Tucker; rank 1 gives CP with weights.

    Args:
        rank: One rank for all modes, or one per mode in the tensor's order; a fraction of the dense size; or 'full'.
        blocks: The number of terms.

    Raises:
        RankError: A rank or a number of blocks below 1, or (once the modes are known) a rank above the mode's size.

    Source: L. De Lathauwer, SIAM J. Matrix Anal. Appl. 2008.

    Examples:
        >>> from tensorfact.formats import BlockTerm
        >>> from tensorfact.network import Mode
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> print(BlockTerm(rank=2, blocks=3).network(modes))
        U1[_0 in _in] U2[_0 layer _layer] C[_0 _layer _in _out] U3[_0 out _out] -> layer in out
    """

    rank: Rank
    blocks: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_rank(self.rank, "BlockTerm"))
        object.__setattr__(self, "blocks", check_count(self.blocks, "BlockTerm: blocks"))

    def network(self, modes: Sequence[Mode]) -> Network:
        """Return the network of cores and factors of all terms."""
        sizes = mode_sizes(modes)
        bonds = {f"_{name}": rank for name, rank in zip(sizes, self.ranks(sizes, modes), strict=True)}
        *factors, last = [
            Core(f"U{k}", ("_0", mode.name, f"_{mode.name}")) for k, mode in enumerate(arranged(modes), 1)
        ]
        cores = (*factors, Core("C", ("_0", *bonds)), dataclasses.replace(last, start="zero"))
        return Network(cores, tuple(sizes), {**sizes, **bonds, "_0": self.blocks})

"""The hierarchical Tucker format."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from tensorfact import Format
from tensorfact.formats.rank import Rank, checked_rank
from tensorfact.network import Core, Mode, Network

__all__ = ["HierarchicalTucker"]


@dataclasses.dataclass(frozen=True)
class HierarchicalTucker(Format):
    """Hierarchical Tucker: a binary tree with a factor matrix at every mode and a core at every inner node.

    The modes are the leaves, inputs first and outputs last; every inner node splits its leaves into two halves. The
    factor matrix of the last output starts at zero.

    Args:
        rank: One rank for all edges of the tree, or one rank per edge, from the root down; a fraction of the dense
            size; or 'full'.

    Raises:
        RankError: A rank below 1, or, once the modes are known, above the largest useful rank of an edge.

    Source: W. Hackbusch, S. Kuehn, A New Scheme for the Tensor Representation, J. Fourier Anal. Appl. 2009.

    Examples:
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> print(HierarchicalTucker(rank=4).network(modes))
        U1[in _1] U2[layer _2] B2_3[_2 _3 _2_3] B1_2_3[_1 _2_3] U3[out _3] -> layer in out
    """

    rank: Rank

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_rank(self.rank, "HierarchicalTucker"))

    def network(self, modes: Sequence[Mode]) -> Network:
        """Return the network: factor matrices of the modes, then cores of the inner nodes."""
        leaves = [mode for side in ("in", "stack", "out") for mode in modes if mode.side == side]
        limits = {_edge(span): _limit(span, leaves) for span in _spans(0, len(leaves))[1:]}
        edges = dict(zip(limits, self.ranks(limits, modes) if limits else (), strict=True))
        *factors, last = [
            Core(f"U{k}", (mode.name, *([_edge((k - 1, k))] if edges else []))) for k, mode in enumerate(leaves, 1)
        ]
        forks = [_fork(span, len(leaves)) for span in reversed(_spans(0, len(leaves))) if span[1] - span[0] > 1]
        cores = (*factors, *forks, dataclasses.replace(last, start="zero"))
        sizes = {mode.name: mode.size for mode in modes} | edges
        return Network(cores, tuple(mode.name for mode in modes), sizes)


def _spans(start: int, stop: int) -> list[tuple[int, int]]:
    """Return the range of leaves below every node of the tree, starting at the root."""
    if stop - start < 2:
        return [(start, stop)]
    middle = (start + stop) // 2
    return [(start, stop), *_spans(start, middle), *_spans(middle, stop)]


def _edge(span: tuple[int, int]) -> str:
    """Return the name of the leg between a node and its parent."""
    return "_" + "_".join(str(leaf + 1) for leaf in range(*span))


def _limit(span: tuple[int, int], leaves: Sequence[Mode]) -> int:
    """Return the largest useful rank of an edge: the full rank of the matrix (leaves below it) x (other leaves)."""
    below = math.prod(mode.size for mode in leaves[slice(*span)])
    return min(below, math.prod(mode.size for mode in leaves) // below)


def _fork(span: tuple[int, int], leaves: int) -> Core:
    """Return the core of an inner node: the legs of its two children, and its own leg unless it is the root."""
    middle = (span[0] + span[1]) // 2
    below = (_edge((span[0], middle)), _edge((middle, span[1])))
    name = "B" + "_".join(str(leaf + 1) for leaf in range(*span))
    return Core(name, below if span == (0, leaves) else (*below, _edge(span)))

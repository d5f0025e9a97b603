"""The Kronecker format: LoKr, KronA."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..network import Core, Mode, Network
from .common import in_pairs, mode_sizes
from .per_slice import PerSlice
from .rank import Rank, checked_rank, matrix_limit


@dataclasses.dataclass(frozen=True)
class Kronecker(PerSlice):
    """A Kronecker product of small matrices for every slice: W1 (out1, in1), W2 (out2, in2), ...

    The last matrix starts at zero. The plan splits inputs and outputs into the same number of modes:
    `plan.split("in", {"in1": 24, "in2": 32})`.

    Args:
        rank: Factor the last matrix into two matrices of this rank, such as W2a and W2b; by default it is not factored.

    Raises:
        RankError: A rank below 1, or (once the modes are known) above the smaller side of the last matrix.
        FormatError: There are fewer than two inputs, or the numbers of inputs and outputs differ.

    Source: LoKr: S. Yeh et al., LyCORIS, ICLR 2024; KronA: A. Edalati et al., 2022.

    Examples:
        >>> from tensorfact.formats import Kronecker
        >>> from tensorfact.network import Mode
        >>> modes = (Mode("m", 24, "in"), Mode("n", 32, "in"), Mode("l", 24, "out"), Mode("k", 32, "out"))
        >>> print(Kronecker().network(modes))
        W1[l m] W2[k n] -> m n l k
        >>> Kronecker().num_parameters(modes), Kronecker(rank=8).num_parameters(modes)
        (1600, 1088)
    """

    rank: Rank | None = None

    def __post_init__(self) -> None:
        if self.rank is not None:
            object.__setattr__(self, "rank", checked_rank(self.rank, "Kronecker", several=False))

    def slice_network(self, modes: Sequence[Mode]) -> Network:
        """Return the network of the matrices of a slice."""
        inputs, outputs = in_pairs(modes, str(self))
        cores = [Core(f"W{k}", (o.name, i.name)) for k, (i, o) in enumerate(zip(inputs, outputs, strict=True), 1)]
        sizes, last = mode_sizes(modes), cores.pop()
        if self.rank is None:
            cores.append(dataclasses.replace(last, start="zero"))
        else:
            (sizes["_r"],) = self.ranks({"rank": matrix_limit(inputs[-1:], outputs[-1:])}, modes)
            left, right = last.legs
            cores += [Core(f"{last.name}b", ("_r", right)), Core(f"{last.name}a", (left, "_r"), "zero")]
        return Network(tuple(cores), tuple(mode.name for mode in modes), sizes)

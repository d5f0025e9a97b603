"""The Khatri-Rao format: KRAdapter."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..network import Core, Mode, Network
from .common import mode_sizes
from .per_slice import PerSlice


@dataclasses.dataclass(frozen=True)
class KhatriRao(PerSlice):
    """The row-wise Kronecker product of two matrices, truncated to the inputs, for every slice. U starts at zero.

    Row o of a slice is V[o] (x) U[o]: input n is its entry (n div d, n mod d), with d the rounded-up square root of
    the number of inputs. The fixed 0-1 matrices J and I select these entries. A slice can have full rank.

    Source: KRAdapter: P. Albert et al., ICCV 2025.

    Examples:
        >>> from tensorfact.formats import KhatriRao
        >>> from tensorfact.network import Mode
        >>> modes = (Mode("in", 768, "in"), Mode("out", 768, "out"))
        >>> print(KhatriRao().network(modes))
        J[in _j] I[in _i] V[out _j] U[out _i] -> in out
        >>> KhatriRao().num_parameters(modes)
        43008
    """

    def slice_network(self, modes: Sequence[Mode]) -> Network:
        """Return the network of V, U and the selection matrices J, I."""
        inputs, outputs = (tuple(mode.name for mode in modes if mode.side == side) for side in ("in", "out"))
        wide, tall = _digits(modes)
        cores = (
            Core("J", (*inputs, "_j"), "given", trained=False),
            Core("I", (*inputs, "_i"), "given", trained=False),
            Core("V", (*outputs, "_j")),
            Core("U", (*outputs, "_i"), "zero"),
        )
        return Network(cores, tuple(mode.name for mode in modes), {**mode_sizes(modes), "_i": wide, "_j": tall})

    def given(self, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Return the selection matrices J and I."""
        shape = [mode.size for mode in modes if mode.side == "in"]
        wide, tall = _digits(modes)
        number = torch.arange(math.prod(shape), device="cpu")
        digits = {"J": (number // wide, tall), "I": (number % wide, wide)}
        return {
            name: torch.nn.functional.one_hot(digit, size).to(torch.float32).reshape(*shape, size)
            for name, (digit, size) in digits.items()
        }


def _digits(modes: Sequence[Mode]) -> tuple[int, int]:
    """Return the numbers of columns of U and V."""
    count = math.prod(mode.size for mode in modes if mode.side == "in")
    wide = math.isqrt(count - 1) + 1
    return wide, -(-count // wide)

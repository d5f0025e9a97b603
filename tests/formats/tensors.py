"""Modes, cores and tensors for the tests of formats."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from hypothesis import strategies as st
from torch import Tensor

from tensorfact import Format
from tensorfact.network import Mode, Network, plan_contraction
from tests.strategies import formats, modes

VIT = (Mode("(layer role)", 144, "stack"), Mode("in", 768, "in"), Mode("out", 768, "out"))
THREE = (Mode("layer", 3, "stack"), Mode("in", 4, "in"), Mode("out", 5, "out"))


def random_cores(network: Network, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in network.shapes().items()}


def dense(network: Network, cores: Mapping[str, Tensor]) -> Tensor:
    return plan_contraction(network)([cores[core.name] for core in network.cores])


@st.composite
def fitted(draw: st.DrawFn, kind: type[Format]) -> tuple[tuple[Mode, ...], Format]:
    """Draw modes and a format that they allow."""
    drawn = draw(modes())
    return drawn, draw(formats(drawn, [kind]))


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)

"""Random factored tensors, and the dense tensor of their sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tensorfact import Format
from tensorfact.algebra import Term
from tensorfact.network import Mode


def term(format: Format, drawn: Sequence[Mode], seed: int = 0, weight: float = 1.0) -> Term:
    generator = torch.Generator().manual_seed(seed)
    network = format.network(drawn)
    cores = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in network.shapes().items()}
    return Term(network, cores, weight)


def dense(terms: Sequence[Term]) -> Tensor:
    return torch.stack([each.dense() for each in terms]).sum(0)

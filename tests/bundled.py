"""The bundled model for several rooms: an input and samples, a plan, and formats with cores that are not trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tensorfact import Adapter, Format, TensorizationPlan, TensorTrain, Tucker, lab, plan_for, recipes
from tensorfact.formats import Diagonals, KhatriRao, Started

X = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
VERA = Diagonals(TensorTrain(16))


def nano(dtype: torch.dtype = torch.float32) -> nn.Module:
    return lab.nano().to(dtype)


def plan() -> TensorizationPlan:
    return plan_for(lab.nano(), "attention")


FROZEN: dict[str, Format] = {
    "frozen": Started(TensorTrain(8), frozen=["U"]),
    "vera": VERA,
    "given": KhatriRao(),
    "frozen orthogonal": Started(Tucker(4), {"U1": "orthogonal", "C": "xavier"}, frozen=["C", "U1"]),
}


def samples() -> torch.utils.data.TensorDataset:
    return torch.utils.data.TensorDataset(X.repeat(4, 1, 1, 1), torch.arange(8) % 10)


def gates(model: nn.Module, **options: Any) -> Adapter:
    return recipes.quanta(model).adapt(model, **options)

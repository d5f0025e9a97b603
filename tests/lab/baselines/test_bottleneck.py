"""Bottlenecks: one in parallel to an MLP needs the norm before it."""

from __future__ import annotations

from typing import Any

import torch

from tensorfact.errors import AdaptError
from tensorfact.lab.baselines import AdaptFormer
from tests.helpers import refused
from tests.lab.baselines.models import small


def test_an_mlp_without_its_norm_has_nothing_to_stand_beside() -> None:
    model: Any = small()
    AdaptFormer(2).attach(model, 0)
    with refused(AdaptError, "norm2"):
        model.blocks[0].mlp(torch.zeros(1, 1, 24))

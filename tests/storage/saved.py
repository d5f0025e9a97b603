"""The adapter that is saved: its plan and its base model."""

from __future__ import annotations

from torch import nn

from tensorfact import Group, Rule, TensorizationPlan
from tests.helpers import Tiny, randomise

PLAN = TensorizationPlan(
    (
        Group(
            "g",
            "(layer role) in out",
            (Rule("blocks.{layer}.qkv.weight", "(role out) in", role=["q", None, "v"]),),
        ),
    )
)


def base(seed: int = 0) -> nn.Module:
    return randomise(Tiny(), seed)

"""The outcomes of checked laws, and an example input."""

from __future__ import annotations

from typing import Any

import torch

X = torch.linspace(-1, 1, 18).reshape(3, 6)


def failing(laws: Any) -> dict[str, str]:
    """Return the messages of the laws that do not hold, by name."""
    return {name: message for name, holds, message in laws.report().rows if holds == "no"}

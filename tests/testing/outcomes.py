"""What came of checked laws, and an input."""

from __future__ import annotations

from typing import Any

import torch

X = torch.linspace(-1, 1, 18).reshape(3, 6)


def failing(laws: Any) -> dict[str, str]:
    """Return the laws that do not hold, and what they say."""
    return {name: message for name, holds, message in laws.report().rows if holds == "no"}

"""Plans for a model: `plan_for` for the known model families, `plan_by_shape` for any model."""

from .by_shape import plan_by_shape
from .family import Block, Example, Family, Fold, Heads, Part
from .fold import Blocks, Mlp, plan_for
from .known import FAMILIES

__all__ = [
    "FAMILIES",
    "Block",
    "Blocks",
    "Example",
    "Family",
    "Fold",
    "Heads",
    "Mlp",
    "Part",
    "plan_by_shape",
    "plan_for",
]

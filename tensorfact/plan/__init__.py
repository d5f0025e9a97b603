"""Which parameters of a model fold into which tensors."""

from .families import plan_by_shape, plan_for
from .plan import TensorizationPlan
from .rules import Group, Rule
from .slices import View
from .tensors import LeftOut, ResolvedPlan, TensorGroup

__all__ = [
    "Group",
    "LeftOut",
    "ResolvedPlan",
    "Rule",
    "TensorGroup",
    "TensorizationPlan",
    "View",
    "plan_by_shape",
    "plan_for",
]

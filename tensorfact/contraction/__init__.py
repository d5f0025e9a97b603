"""How to contract a network: the order, where it can be cut in two, and what that costs."""

from .cost import Cost, Machine, calibrate, machine, product, seconds_of, usable
from .cut import Cut, cuts
from .order import TOKENS, Contraction, Step, plan_contraction, with_input

__all__ = [
    "TOKENS",
    "Contraction",
    "Cost",
    "Cut",
    "Machine",
    "Step",
    "calibrate",
    "cuts",
    "machine",
    "plan_contraction",
    "product",
    "seconds_of",
    "usable",
    "with_input",
]

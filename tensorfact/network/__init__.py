"""Tensor networks as data, their contraction and its cost; the only room that imports opt_einsum."""

from .cost import Cost, Machine, calibrate, machine
from .cut import Cut, cuts
from .dropout import Dropout
from .network import Core, Mode, Network, Side
from .order import Contraction, ContractionStep, dense_of, plan_contraction, with_input

__all__ = [
    "Contraction",
    "ContractionStep",
    "Core",
    "Cost",
    "Cut",
    "Dropout",
    "Machine",
    "Mode",
    "Network",
    "Side",
    "calibrate",
    "cuts",
    "dense_of",
    "machine",
    "plan_contraction",
    "with_input",
]

"""Increments of parameters: planned for all that lie alike, formed once, added inside a layer's products."""

from .increment import Increment, increments
from .planned import NOMINAL_TOKENS, Kind, token_class
from .recompute import note_sources
from .shifted import ShiftedIncrement

__all__ = [
    "NOMINAL_TOKENS",
    "Increment",
    "Kind",
    "ShiftedIncrement",
    "increments",
    "note_sources",
    "token_class",
]

"""Increments of parameters: planned and formed once per kind, applied inside a layer's products."""

from .execution import NOMINAL_TOKENS
from .increment import Increment, increments
from .passes import Passes
from .planned import Kind, token_class
from .recompute import note_sources
from .shifted import ShiftedIncrement
from .summed import SummedIncrement

AnyIncrement = Increment | ShiftedIncrement | SummedIncrement

__all__ = [
    "NOMINAL_TOKENS",
    "AnyIncrement",
    "Increment",
    "Kind",
    "Passes",
    "ShiftedIncrement",
    "SummedIncrement",
    "increments",
    "note_sources",
    "token_class",
]

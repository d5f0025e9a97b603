"""Increments of parameters: planned for all that lie alike, formed once, added inside a layer's products."""

from .increment import Increment, increments
from .kind import NOMINAL_TOKENS, Kind, token_class

__all__ = ["NOMINAL_TOKENS", "Increment", "Kind", "increments", "token_class"]

"""Adapters from adapters and from weights, computed on the factors: convert, round, combine, extract, reconstruct."""

from .changes import Change, Recompression
from .conversion import combine, convert, round_ranks
from .extraction import Extraction, extract
from .reconstruction import Reconstructions, reconstruct
from .term import Term

__all__ = [
    "Change",
    "Extraction",
    "Recompression",
    "Reconstructions",
    "Term",
    "combine",
    "convert",
    "extract",
    "reconstruct",
    "round_ranks",
]

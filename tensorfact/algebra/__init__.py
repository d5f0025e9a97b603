"""Operations on factors: convert, round and combine adapters; extract adapters from weights; rank formats."""

from .changes import Change, Recompression
from .conversion import combine, convert, round_ranks
from .extraction import Extraction, extract
from .growth import resize_ranks
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
    "resize_ranks",
    "round_ranks",
]

"""Sums, conversions and rounding of factored tensors, computed on the factors."""

from .bases import compress
from .direct_sum import direct_sum
from .recompress import recompress, stored
from .term import Term

__all__ = ["Term", "compress", "direct_sum", "recompress", "stored"]

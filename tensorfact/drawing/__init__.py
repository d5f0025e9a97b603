"""Draw networks, formats and plans as SVG."""

from .pictures import draw

__all__ = ["draw"]

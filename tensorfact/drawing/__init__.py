"""Pictures of networks, formats and plans, as SVG; nothing that is drawn knows of it."""

from .pictures import draw

__all__ = ["draw"]

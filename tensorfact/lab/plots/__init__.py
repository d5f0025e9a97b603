"""Pictures for people: one style, lines and points that are labelled directly, and the only imports of matplotlib."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .curves import training_curves
from .labels import Label, label_directly
from .style import PanelBlock, canvas, log_axis, look, panels, picture_file, save, short, titled, widen

__all__ = [
    "Axes",
    "Figure",
    "Label",
    "PanelBlock",
    "canvas",
    "label_directly",
    "log_axis",
    "look",
    "panels",
    "picture_file",
    "save",
    "short",
    "titled",
    "training_curves",
    "widen",
]

"""Data to train and select on."""

from .images import image_folder
from .in_memory import ResizedImages, digits
from .listed import VTAB, ListedImages, Task, few_shot, vtab
from .splits import SPLITS, Splits

__all__ = [
    "SPLITS",
    "VTAB",
    "ListedImages",
    "ResizedImages",
    "Splits",
    "Task",
    "digits",
    "few_shot",
    "image_folder",
    "vtab",
]

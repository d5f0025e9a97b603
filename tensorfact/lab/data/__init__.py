"""Data sets with training, validation and test splits."""

from .fashion import fashion_mnist
from .folders import image_folder
from .generated import sprites
from .images import ListedImages
from .in_memory import ResizedImages, arrays, digits
from .libraries import hugging_face, timm_dataset
from .listed import FEW_SHOT, VTAB, Task, few_shot, vtab
from .splits import SPLITS, Splits
from .tasks import open_task, task_info

__all__ = [
    "FEW_SHOT",
    "SPLITS",
    "VTAB",
    "ListedImages",
    "ResizedImages",
    "Splits",
    "Task",
    "arrays",
    "digits",
    "fashion_mnist",
    "few_shot",
    "hugging_face",
    "image_folder",
    "open_task",
    "sprites",
    "task_info",
    "timm_dataset",
    "vtab",
]

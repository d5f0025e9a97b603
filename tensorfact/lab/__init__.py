"""Training, measurement, comparison and reports: everything that needs data."""

from .bundled import nano
from .comparison import Comparison, compare
from .data import (
    Splits,
    arrays,
    digits,
    fashion_mnist,
    few_shot,
    hugging_face,
    image_folder,
    open_task,
    sprites,
    timm_dataset,
    vtab,
)
from .examination import Diagnosis, doctor
from .loading import Loaded, load
from .prediction import Prediction, predict
from .training import Evaluation, History, evaluate, fit

__all__ = [
    "Comparison",
    "Diagnosis",
    "Evaluation",
    "History",
    "Loaded",
    "Prediction",
    "Splits",
    "arrays",
    "compare",
    "digits",
    "doctor",
    "evaluate",
    "fashion_mnist",
    "few_shot",
    "fit",
    "hugging_face",
    "image_folder",
    "load",
    "nano",
    "open_task",
    "predict",
    "sprites",
    "timm_dataset",
    "vtab",
]

"""Training loop for the parameters that require gradients: in one process or several, resumable."""

from .evaluation import evaluate
from .history import Epoch, History
from .launch import accelerator_for
from .loop import fit
from .schedule import Loss, Samples, Schedule

__all__ = ["Epoch", "History", "Loss", "Samples", "Schedule", "accelerator_for", "evaluate", "fit"]

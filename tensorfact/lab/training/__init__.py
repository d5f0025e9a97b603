"""Training loop for the parameters that require gradients: in one process or several, resumable."""

from .evaluation import Evaluation, evaluate
from .history import Epoch, History
from .launch import accelerator_for
from .loop import fit
from .schedule import Loss, Samples, Schedule

__all__ = ["Epoch", "Evaluation", "History", "Loss", "Samples", "Schedule", "accelerator_for", "evaluate", "fit"]

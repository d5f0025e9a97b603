"""Train what requires gradients: an explicit loop, on one process or several, that can be stopped and resumed."""

from .evaluation import evaluate
from .history import Epoch, History
from .launch import accelerator_for
from .loop import fit
from .schedule import Loss, Samples, Schedule

__all__ = ["Epoch", "History", "Loss", "Samples", "Schedule", "accelerator_for", "evaluate", "fit"]

"""Train what requires gradients: an explicit loop, on one process or several, that can be stopped and resumed."""

from .evaluation import evaluate
from .history import Epoch, History
from .loop import fit
from .schedule import Loss, Samples, Schedule

__all__ = ["Epoch", "History", "Loss", "Samples", "Schedule", "evaluate", "fit"]

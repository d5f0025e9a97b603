"""Optimizers that know the network: their steps do not depend on how an increment is factored."""

from .gradients import precondition
from .preconditioned import PreconditionedAdamW

__all__ = ["PreconditionedAdamW", "precondition"]

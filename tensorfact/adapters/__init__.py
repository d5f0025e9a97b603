"""Attach adapters to a model; the only room that changes a model."""

from .adapter import Adapter
from .bank import Bank, Tasks
from .build import adapt, load_adapter
from .scale import Alpha, Scale

__all__ = ["Adapter", "Alpha", "Bank", "Scale", "Tasks", "adapt", "load_adapter"]

"""Attach adapters to a model; the only room that changes a model."""

from .adapter import Adapter
from .banks import Bank, Tasks
from .banks.joining import bank
from .banks.stored import open_bank
from .build import adapt, load_adapter
from .scale import Alpha, Scale

__all__ = ["Adapter", "Alpha", "Bank", "Scale", "Tasks", "adapt", "bank", "load_adapter", "open_bank"]

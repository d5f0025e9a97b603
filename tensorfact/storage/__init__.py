"""Adapters without a model, in memory and in files; owns safetensors."""

from .description import AdapterFile
from .state import AdapterState

__all__ = ["AdapterFile", "AdapterState"]

"""Adapters without a model, in memory and in files; owns safetensors."""

from .description import AdapterDescription
from .state import AdapterState

__all__ = ["AdapterDescription", "AdapterState"]

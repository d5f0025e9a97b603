"""Adapt a model: the only place that changes one."""

from .adapter import Adapter
from .build import adapt, load_adapter

__all__ = ["Adapter", "adapt", "load_adapter"]

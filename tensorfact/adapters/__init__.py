"""Adapt a model: the only place that changes one."""

from .adapter import Adapter
from .build import adapt, load_adapter
from .scale import Alpha, Scale

__all__ = ["Adapter", "Alpha", "Scale", "adapt", "load_adapter"]

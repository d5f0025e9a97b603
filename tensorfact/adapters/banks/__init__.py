"""Several tasks in one adapter: the task is one more axis of the cores that are each task's own."""

from .bank import Bank
from .tasks import Tasks

__all__ = ["Bank", "Tasks"]

"""Tasks of 1,000 images to train on, as in VTAB-1K, that need no hub; every split is fixed by a list of digests."""

from . import digits, emoji, fashion, letters, mnist, sprites, textile
from .lists import split
from .pool import Pool, RealTask

REAL = {
    task.name: task
    for task in (mnist.TASK, fashion.TASK, digits.TASK, letters.TASK, emoji.TASK, textile.TASK, *sprites.TASKS)
}
"""The tasks by name."""

__all__ = ["REAL", "Pool", "RealTask", "split"]

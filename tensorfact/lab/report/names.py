"""What the names of tasks and methods say of them."""

from __future__ import annotations

from ...errors import FormatError
from ...formats import get_format
from ...formats.options import read_options
from ...recipes import RECIPES


def task_label(task: str) -> str:
    """Return a task's name without the benchmark's."""
    return task.partition(":")[2] or task


def kind_of(method: str) -> str:
    """Return what a method is: `fact`, another published `recipe`, a `format`, or a `baseline`.

    Args:
        method: A method and its options.

    Examples:
        >>> [kind_of(method) for method in ("fact-tt:rank=16", "lora:rank=8", "tucker:rank=4", "bitfit")]
        ['fact', 'recipe', 'format', 'baseline']
    """
    name = method.partition(":")[0].strip().lower().replace("_", "-")
    if name.startswith("fact-"):
        return "fact"
    if name in {recipe.replace("_", "-") for recipe in RECIPES}:
        return "recipe"
    try:
        get_format(name)
    except FormatError:
        return "baseline"
    return "format"


def rank_of(method: str) -> int | None:
    """Return the rank that a method's options name; None if there is none, or not one number.

    Examples:
        >>> rank_of("fact-tt:rank=16"), rank_of("bitfit")
        (16, None)
    """
    try:
        rank = read_options(method.partition(":")[2]).get("rank")
    except ValueError:  # an option that is a format
        return None
    return rank if type(rank) is int else None

"""Labels and kinds, derived from the names of tasks and methods."""

from __future__ import annotations

from ...errors import FormatError
from ...formats import get_format
from ...formats.options import read_options
from ...recipes import RECIPES


def task_label(task: str) -> str:
    """Return the name of a task without its benchmark: `cifar` for `vtab:cifar`."""
    return task.partition(":")[2] or task


def kind_of(method: str) -> str:
    """Return the kind of a method: `fact`, `recipe` (other published methods), `format` or `baseline`.

    Args:
        method: Name and options, as in a `RunSpec`.

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
    """Return the option `rank` of a method; None if it is missing or not a single int.

    Examples:
        >>> rank_of("fact-tt:rank=16"), rank_of("bitfit")
        (16, None)
    """
    try:
        rank = read_options(method.partition(":")[2]).get("rank")
    except ValueError:  # options that contain a format
        return None
    return rank if type(rank) is int else None

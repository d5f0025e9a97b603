"""Messages of the library in the words of the command line: options in place of arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

CALLS = {
    "adapter.save_pretrained(folder)": "tensorfact train MODEL DATA --out FOLDER",
    "plan_by_shape(model)": "--by-shape",
    "from_lora(model, folder)": "tensorfact from-lora MODEL FOLDER",
}
"""Calls that messages suggest, and what to type instead."""

PYTHON_ONLY = ("; or plan.resolve(model).fitted(format), which lowers ranks that are too high",)
"""Suggestions of which the command line has no counterpart."""

SLASHED = ("fractions",)
"""Options of several numbers that are written with slashes between them."""

_ARGUMENT = re.compile(
    r"(?P<call>\b[\w.]+\([^()]*\))"  # arguments of a call in Python stay as they are
    r"|(?<![\w:,(=])(?P<name>[a-z_]+)=(?P<value>'[^']*'|\"[^\"]*\"|\([^()]*\)|[^\s,;)]*[^\s,;).])?"
)


def in_options(message: str, options: Mapping[str, Sequence[str]]) -> str:
    """Return a message with the options of a command in place of Python arguments.

    Args:
        message: The message of an error.
        options: The options of the command by the name of the argument: how it is spelled, and for a flag also how it
            is switched off.

    Examples:
        >>> in_options("pass check_base=False", {"check_base": ("--check-base", "--no-check-base")})
        'pass --no-check-base'
        >>> in_options("pass tolerance=0.1, or tt:rank=4", {"tolerance": ("--tolerance",), "rank": ("--rank",)})
        'pass --tolerance 0.1, or tt:rank=4'
        >>> in_options("pass fractions=(0.5, 0.5, 0)", {"fractions": ("--fractions",)})
        'pass --fractions 0.5/0.5/0'
    """
    for suggestion in PYTHON_ONLY:
        message = message.replace(suggestion, "")
    for call, typed in CALLS.items():
        if call in message and (not typed.startswith("--") or typed in {o for each in options.values() for o in each}):
            message = message.replace(call, typed)

    def spelled(match: re.Match[str]) -> str:
        found = options.get(match["name"] or "")
        if not found:
            return match[0]
        value = (match["value"] or "").strip("'\"")
        if match["name"] in SLASHED:
            value = value.strip("()").replace(", ", "/")
        elif value.startswith("("):  # of several words or with brackets, a shell needs quotes
            value = f'"{value.replace(", ", ",")}"'
        if value == "True":
            return found[0]
        if value == "False":
            return found[1] if len(found) > 1 else f"no {found[0]}"
        return f"{found[0]} {value}".rstrip()

    return _ARGUMENT.sub(spelled, message)

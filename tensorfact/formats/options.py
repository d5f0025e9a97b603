"""Parse options written on the command line and in files: `rank=4,order=(0,1)`."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from ..common.aliases import JsonObject
from ..common.checks import duplicate, quoted
from ..errors import TensorfactError

_SEVERAL = re.compile(r"[0-9]+([/x:;-][0-9]+)+")
"""Several numbers, written in another way than as a tuple."""

_SHOWN = 50
"""The most characters of an option in a message."""


def plain_value(value: ast.expr, read: Callable[[ast.expr], object]) -> object:
    """Evaluate an expression: a literal, or a bare word, which is read as a string.

    Args:
        value: The expression.
        read: Evaluates the elements of a tuple or a dict.
    """
    if isinstance(value, ast.Tuple):
        return tuple(read(each) for each in value.elts)
    if isinstance(value, ast.Dict):
        return {read(key): read(each) for key, each in zip(value.keys, value.values, strict=True) if key}
    return value.id if isinstance(value, ast.Name) else ast.literal_eval(value)


def literal(value: ast.expr) -> object:
    """Evaluate an expression of literals and bare words."""
    return plain_value(value, literal)


def read_options(text: str, read: Callable[[ast.expr], object] = literal) -> JsonObject:
    """Parse comma-separated options into a dict.

    Args:
        text: Options as `name=value`, separated by commas.
        read: Evaluates a value.

    Raises:
        ValueError: The text has another syntax, or a name occurs twice; the message names the wrong part.

    Examples:
        >>> read_options("rank=4,order=(0,1),start=zero,deep=True")
        {'rank': 4, 'order': (0, 1), 'start': 'zero', 'deep': True}
    """
    try:
        pairs = _pairs(text, read)
    except TensorfactError:  # of a value that was read
        raise
    except (SyntaxError, TypeError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(_wrong_part(text, read)) from error
    if repeated := duplicate(name for name, _ in pairs):
        raise ValueError(f"the option {repeated!r} is given twice")
    return dict(pairs)


def _pairs(text: str, read: Callable[[ast.expr], object]) -> list[tuple[str, object]]:
    """Return the names and values of options."""
    call = ast.parse(f"f({text})", mode="eval").body
    if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
        raise ValueError(text)
    pairs = [(word.arg or "", read(word.value)) for word in call.keywords]
    if "" in dict(pairs):  # `**value`
        raise ValueError(text)
    return pairs


def _wrong_part(text: str, read: Callable[[ast.expr], object]) -> str:
    """Return in words what is wrong with options that cannot be read."""
    for part in _separated(text):
        name, sign, value = part[:_SHOWN].partition("=")
        try:
            _pairs(part, read)
        except TensorfactError:
            raise
        except (SyntaxError, TypeError, ValueError, MemoryError, RecursionError):
            pass
        else:
            continue
        if not sign:
            return (
                f"{quoted(part[:_SHOWN])} has no name; several numbers are written in parentheses, as in rank=(2,3,4)"
            )
        if _SEVERAL.fullmatch(value):
            return f"several numbers are written {name}=({','.join(re.findall(r'[0-9]+', value))})"
        return f"cannot read the value of the option {name!r}, {quoted(value)}"
    return quoted(text)


def _separated(text: str) -> list[str]:
    """Split a text at the commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts

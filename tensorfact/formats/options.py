"""Parse options written on the command line and in files: `rank=4,order=(0,1)`."""

from __future__ import annotations

import ast
from collections.abc import Callable

from ..common.aliases import JsonObject


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
        ValueError: The text has another syntax, or a name occurs twice.

    Examples:
        >>> read_options("rank=4,order=(0,1),start=zero,deep=True")
        {'rank': 4, 'order': (0, 1), 'start': 'zero', 'deep': True}
    """
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError(text)
        options = {word.arg or "": read(word.value) for word in call.keywords}
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(text) from error
    if len(options) < len(call.keywords) or "" in options:
        raise ValueError(text)
    return options

"""The axis strings of rules and groups: `"(role out) in"` is two dimensions, the first made of two axes."""

from __future__ import annotations

import re

from ..errors import PlanError

Axes = tuple[str, ...]

_TOKEN = re.compile(r"\s*(\(|\)|[A-Za-z][A-Za-z0-9_]*|1(?![A-Za-z0-9_]))")


def parse_axes(text: str, owner: str) -> tuple[Axes, ...]:
    """Split an axis string into one tuple of axis names per dimension.

    Args:
        text: Names separated by spaces; parentheses join several axes into one dimension, the last running fastest;
            `1` is a dimension of size one without an axis.
        owner: What the string belongs to, for error messages.

    Returns:
        The axes of every dimension, in order.

    Raises:
        PlanError: The string is not of this form, or names an axis twice.

    Examples:
        >>> parse_axes("(role out) in 1", "a rule")
        (('role', 'out'), ('in',), ())
    """
    dims: list[Axes] = []
    open_dim: list[str] | None = None
    position = 0
    stripped = text.rstrip() if isinstance(text, str) else ""
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        token = match[1] if match else ""
        axes = () if token == "1" else (token,)
        if not token or (token == "(" and open_dim is not None) or (token == ")" and open_dim is None):
            raise _malformed(text, owner, stripped[position:].strip())
        if token == "(":
            open_dim = []
        elif token == ")":
            dims.append(tuple(open_dim or ()))
            open_dim = None
        elif open_dim is not None:
            open_dim += axes
        else:
            dims.append(axes)
        position = match.end() if match else len(stripped)
    if open_dim is not None or not dims:
        raise _malformed(text, owner, "the end of the string")
    names = [axis for dim in dims for axis in dim]
    if twice := sorted({axis for axis in names if names.count(axis) > 1}):
        raise PlanError(f"{owner}: {text!r} names axis {twice[0]!r} twice", fix="remove one of them")
    return tuple(dims)


def format_axes(dims: tuple[Axes, ...]) -> str:
    """Return the axis string of some dimensions: the inverse of `parse_axes`.

    Args:
        dims: The axes of every dimension.

    Returns:
        The axis string.

    Examples:
        >>> format_axes((("layer", "role"), ("in",)))
        '(layer role) in'
    """
    return " ".join(mode_name(axes) for axes in dims)


def mode_name(axes: Axes) -> str:
    """Return the name of one dimension: `in`, `(layer role)`, or `1`."""
    if not axes:
        return "1"
    return axes[0] if len(axes) == 1 else f"({' '.join(axes)})"


def _malformed(text: str, owner: str, rest: str) -> PlanError:
    return PlanError(
        f"{owner}: cannot read the axis string",
        expected="names, parentheses and 1, as in '(role out) in'",
        got=f"{text!r} (stuck at {rest!r})",
        fix="write one name per dimension, or (a b) for several axes in one",
    )

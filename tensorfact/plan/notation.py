"""The axis strings of rules and groups: `"(role out) in"` is two dimensions, the first made of two axes."""

from __future__ import annotations

import re

from ..common.checks import duplicate, quoted
from ..errors import PlanError

Axes = tuple[str, ...]

MOST_AXES = 64
"""The most axes of a tensor: torch computes with no more dimensions."""

LONGEST = 10_000
"""The most characters of an axis string, or of a template of parameter names."""

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
        PlanError: The string is not of this form, names an axis twice, or is too long: it may have 64 axes and 10,000
            characters.

    Examples:
        >>> parse_axes("(role out) in 1", "a rule")
        (('role', 'out'), ('in',), ())
    """
    dims: list[Axes] = []
    open_dim: list[str] | None = None
    position = 0
    check_length(text, owner)
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
    if twice := duplicate(names):
        raise PlanError(f"{owner}: {quoted(text)} names axis {quoted(twice)} twice", fix="remove one of them")
    check_count(len(names), owner)
    return tuple(dims)


def check_length(text: object, owner: str) -> None:
    """Check that an axis string or a template has at most `LONGEST` characters.

    Args:
        text: The text; a value of another type passes.
        owner: What it belongs to, for error messages.

    Raises:
        PlanError: It is longer.
    """
    if isinstance(text, str) and len(text) > LONGEST:
        raise PlanError(
            owner,
            expected=f"at most {LONGEST:,} characters",
            got=f"{len(text):,}, {quoted(text)}",
            cause="a damaged file",
            fix="write it as in 'blocks.{layer}.attn.proj.weight' and '(role out) in'",
        )


def check_count(count: int, owner: str) -> None:
    """Check that a tensor or a rule has at most `MOST_AXES` axes.

    Args:
        count: The number of axes.
        owner: What they belong to, for error messages.

    Raises:
        PlanError: There are more.
    """
    if count > MOST_AXES:
        raise PlanError(
            owner,
            expected=f"at most {MOST_AXES} axes: a tensor of torch has no more dimensions",
            got=f"{count:,}",
            fix="merge axes that need no mode of their own, or use several groups",
        )


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
        got=f"{quoted(text)} (stuck at {quoted(rest)})",
        fix="write one name per dimension, or (a b) for several axes in one",
    )

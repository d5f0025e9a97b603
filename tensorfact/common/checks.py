"""Checks of arguments: each returns the value it was given as its plain type, or raises with one form of message."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import SupportsFloat, SupportsIndex

from ..errors import TensorfactError, nearest

ErrorClass = type[TensorfactError]
"""The class of the error that a check raises."""

AnyPath = str | os.PathLike[str]
"""What is taken wherever a path is asked for."""


def whole_number(
    value: object, argument: str, kind: ErrorClass, *, least: int = 1, expected: str = "", example: object = None
) -> int:
    """Return a whole number of at least some size: an int, or what counts as one, such as numpy's integers.

    Args:
        value: What was given.
        argument: The argument, as in `explain: tokens`.
        kind: The class of the error.
        least: The least value that is allowed.
        expected: What was expected; by default `an int of at least LEAST`.
        example: A value that would be right, for the fix; by default `least`.

    Raises:
        TensorfactError: Of class `kind`; a bool, a float, or a smaller number.

    Examples:
        >>> from tensorfact.errors import AdaptError
        >>> whole_number(0, "explain: tokens", AdaptError, example=1024)
        Traceback (most recent call last):
        tensorfact.errors.AdaptError: explain: tokens: expected an int of at least 1, got 0. Fix: tokens=1024.
    """
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        try:
            number = operator.index(value)
        except TypeError:  # a tensor of several numbers, or of floats
            number = least - 1
        if number >= least:
            return number
    raise _refused(
        kind, argument, expected or f"an int of at least {least}", value, least if example is None else example
    )


def finite_number(
    value: object,
    argument: str,
    kind: ErrorClass,
    *,
    fits: Callable[[float], bool] = lambda number: True,
    expected: str = "a finite number",
    example: object = 1.0,
) -> float:
    """Return a finite number in some range, as a float.

    Args:
        value: What was given.
        argument: The argument, as in `adapt: scale`.
        kind: The class of the error.
        fits: Whether a finite number is allowed.
        expected: What was expected, in words.
        example: A value that would be right, for the fix.

    Raises:
        TensorfactError: Of class `kind`; a bool, a text, NaN, infinity, or a number that does not fit.

    Examples:
        >>> from tensorfact.errors import AdaptError
        >>> finite_number("1", "adapt: scale", AdaptError)
        Traceback (most recent call last):
        tensorfact.errors.AdaptError: adapt: scale: expected a finite number, got '1'. Fix: scale=1.0.
    """
    if isinstance(value, SupportsFloat) and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # a tensor of several numbers, or of none
            number = math.nan
        if math.isfinite(number) and fits(number):
            return number
    raise _refused(kind, argument, expected, value, example)


def probability(value: object, argument: str, kind: ErrorClass) -> float:
    """Return a probability below 1, at which something is left.

    Args:
        value: What was given.
        argument: The argument, as in `adapt: dropout`.
        kind: The class of the error.

    Raises:
        TensorfactError: Of class `kind`; no finite number, or none from 0 to below 1.
    """
    name = _name(argument)
    return finite_number(value, argument, kind, fits=lambda p: 0 <= p < 1, expected=f"0 <= {name} < 1", example=0.1)


def one_of(value: object, names: Iterable[str], argument: str, kind: ErrorClass) -> str:
    """Return a name that is one of several.

    Args:
        value: What was given.
        names: The names; the first stands in the fix.
        argument: The argument, as in `adapt: route`.
        kind: The class of the error.

    Raises:
        TensorfactError: Of class `kind`; not one of the names.

    Examples:
        >>> from tensorfact.errors import AdaptError
        >>> one_of("atuo", ["auto", "weight"], "adapt: route", AdaptError)
        Traceback (most recent call last):
        tensorfact.errors.AdaptError: adapt: route: expected 'auto' or 'weight', got 'atuo'; did you mean 'auto'? \
Fix: route='auto'.
    """
    known = list(names)
    if isinstance(value, str) and value in known:
        return value
    *most, last = map(repr, known)
    hint = nearest(value, known) if isinstance(value, str) else ""
    raise kind(
        argument,
        expected=f"{', '.join(most)} or {last}" if most else last,
        got=f"{value!r}{hint}",
        fix=f"{_name(argument)}={known[0]!r}",
    )


def file_path(value: object, argument: str, kind: ErrorClass) -> Path:
    """Return a path from a `str` or an `os.PathLike`.

    Args:
        value: What was given.
        argument: The argument, as in `load_adapter: path`.
        kind: The class of the error.

    Raises:
        TensorfactError: Of class `kind`; something else, an empty path, or one with a null character.
    """
    given = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(given, str) and given and "\0" not in given:
        return Path(given)
    raise _refused(kind, argument, "a path: a str or an os.PathLike", value, "adapter.safetensors")


def _refused(kind: ErrorClass, argument: str, expected: str, got: object, example: object) -> TensorfactError:
    return kind(argument, expected=expected, got=repr(got)[:80], fix=f"{_name(argument)}={example!r}")


def _name(argument: str) -> str:
    """Return the bare name in `owner: name`."""
    return argument.rpartition(": ")[2]

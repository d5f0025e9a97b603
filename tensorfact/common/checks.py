"""Argument checks: each returns the value as a plain Python type, or raises an error with a uniform message."""

from __future__ import annotations

import inspect
import math
import operator
import os
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import SupportsFloat, SupportsIndex, TypeVar

import numpy
import torch
from torch import nn

from ..errors import TensorfactError, nearest

ErrorClass = type[TensorfactError]
"""Class of the error that a check raises."""

T = TypeVar("T")

_LONGEST_PATH, _LONGEST_NAME = 4096, 255
"""Lengths of a path and of a name in it that Linux and most file systems admit, in bytes."""

AnyPath = str | os.PathLike[str]
"""Types that are accepted as a path."""

H = TypeVar("H", bound=Hashable)

_LARGEST = (1 << 63) - 1
"""The largest integer that torch takes."""

_QUOTED = 200
"""The most characters of a value in a message: it may come from a file."""


def quoted(value: object) -> str:
    """Return the `repr` of a value for a message, cut after 200 characters; of models and their like, only the class.

    Args:
        value: The value.

    Examples:
        >>> quoted("tt"), len(quoted("t" * 1_000_000)), quoted(nn.Linear(2, 2).state_dict())
        ("'tt'", 200, 'OrderedDict')
    """
    text = repr(value[: _QUOTED + 1] if isinstance(value, (str, list, tuple)) else value)
    if "\n" in text:  # of a module or a tensor, or of a container of them
        return type(value).__name__
    return text if len(text) <= _QUOTED else f"{text[: _QUOTED - 3]}..."


def duplicate(values: Iterable[H]) -> H | None:
    """Return the first value that occurs a second time; None if there is none.

    Args:
        values: The values, none of them None.

    Examples:
        >>> duplicate(["a", "b", "c", "b", "a"])
        'b'
    """
    seen: set[H] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def whole_number(
    value: object,
    argument: str,
    kind: ErrorClass,
    *,
    least: int = 1,
    most: int = _LARGEST,
    expected: str = "",
    example: object = None,
) -> int:
    """Check that a value is an integer of at least `least`, of Python, numpy or torch, and return it as an int.

    Integers of more than 64 bits are refused, since torch takes none.

    Args:
        value: The value to check.
        argument: Where the value was passed, as in `explain: tokens`.
        kind: Class of the error.
        least: Smallest valid value.
        most: Largest valid value.
        expected: The valid values in words; default: `an int of at least LEAST`.
        example: A valid value, for the fix; default: `least`.

    Raises:
        TensorfactError: Of class `kind`, if the value is a bool, a float, not from `least` to `most`, or of more than
            64 bits.

    Examples:
        >>> from tensorfact.errors import AdaptError
        >>> whole_number(0, "explain: tokens", AdaptError, example=1024)
        Traceback (most recent call last):
        tensorfact.errors.AdaptError: explain: tokens: expected an int of at least 1, got 0. Fix: tokens=1024.
    """
    if isinstance(value, SupportsIndex) and not _is_bool(value):
        try:
            number = operator.index(value)
        except TypeError:  # a tensor with several elements, or of floats
            number = least - 1
        if least <= number <= most:
            return number
        if number > most:
            expected = f"{expected}, at most {most}" if expected else f"an int from {least} to {most}"
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
    """Check that a value is a finite number in some range, and return it as a float.

    Args:
        value: The value to check.
        argument: Where the value was passed, as in `adapt: scale`.
        kind: Class of the error.
        fits: Returns whether a finite number is in the range.
        expected: The valid values in words.
        example: A valid value, for the fix.

    Raises:
        TensorfactError: Of class `kind`, if the value is a bool, a string, NaN, infinite or out of range.

    Examples:
        >>> from tensorfact.errors import AdaptError
        >>> finite_number("1", "adapt: scale", AdaptError)
        Traceback (most recent call last):
        tensorfact.errors.AdaptError: adapt: scale: expected a finite number, got '1'. Fix: scale=1.0.
    """
    if isinstance(value, SupportsFloat) and not _is_bool(value):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # a tensor with several elements, or with none
            number = math.nan
        if math.isfinite(number) and fits(number):
            return number
    raise _refused(kind, argument, expected, value, example)


def probability(value: object, argument: str, kind: ErrorClass) -> float:
    """Check that a value is a dropout probability, 0 <= p < 1, and return it as a float.

    Args:
        value: The value to check.
        argument: Where the value was passed, as in `adapt: dropout`.
        kind: Class of the error.

    Raises:
        TensorfactError: Of class `kind`, if the value is not a number or out of range.
    """
    name = _name(argument)
    return finite_number(value, argument, kind, fits=lambda p: 0 <= p < 1, expected=f"0 <= {name} < 1", example=0.1)


def flag(value: object, argument: str, kind: ErrorClass) -> bool:
    """Check that a value is True or False, and return it.

    Other values are refused, since "no" and "false" count as true in Python.

    Args:
        value: The value to check.
        argument: Where the value was passed, as in `adapt: check`.
        kind: Class of the error.

    Raises:
        TensorfactError: Of class `kind`, if the value is not a bool.

    Examples:
        >>> from tensorfact.errors import AdaptError
        >>> flag("no", "adapt: check", AdaptError)
        Traceback (most recent call last):
        tensorfact.errors.AdaptError: adapt: check: expected True or False, got 'no'. Fix: check=False.
    """
    if isinstance(value, bool):
        return value
    meant = str(value).strip().lower() in ("1", "true", "yes", "on")
    raise _refused(kind, argument, "True or False", value, meant)


def one_of(value: object, names: Iterable[str], argument: str, kind: ErrorClass, *, fix: str = "") -> str:
    """Check that a value is one of several names, and return it.

    Args:
        value: The value to check.
        names: The valid names.
        argument: Where the value was passed, as in `adapt: route`.
        kind: Class of the error.
        fix: What to type; default: the argument with the first name.

    Raises:
        TensorfactError: Of class `kind`, if the value is not one of the names.

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
        got=f"{quoted(value)}{hint}",
        fix=fix or f"{_name(argument)}={known[0]!r}",
    )


def of_type(
    value: T, types: type | tuple[type, ...], argument: str, kind: ErrorClass, *, expected: str, example: str
) -> T:
    """Check that a value is of a type, and return it.

    Args:
        value: The value to check.
        types: The valid types.
        argument: Where the value was passed, as in `extract: plan`.
        kind: Class of the error.
        expected: The valid types in words.
        example: A valid value as it is typed, for the fix.

    Raises:
        TensorfactError: Of class `kind`, if the value is of another type.

    Examples:
        >>> from tensorfact.errors import AdaptError
        >>> of_type(5, dict, "adapt: scale", AdaptError, expected="a dict of scales", example="{'encoder': 2.0}")
        Traceback (most recent call last):
        tensorfact.errors.AdaptError: adapt: scale: expected a dict of scales, got 5. Fix: scale={'encoder': 2.0}.
    """
    if isinstance(value, types):
        return value
    raise kind(argument, expected=expected, got=quoted(value), fix=f"{_name(argument)}={example}")


def callback(
    value: T,
    argument: str,
    kind: ErrorClass,
    *,
    takes: str = "task, done, total",
    example: str = "print",
    beside: str = "",
) -> T:
    """Check that a value is a function of some arguments, such as a progress callback, and return it.

    Classes are refused, since what they return is an instance, not a result.

    Args:
        value: The value to check.
        argument: Where the value was passed, as in `extract: progress`.
        kind: Class of the error.
        takes: The names of the arguments that it is called with, separated by commas.
        example: A valid value as it is typed, for the fix.
        beside: Other valid values in words, which the caller has dealt with, such as `True, False or`.

    Raises:
        TensorfactError: Of class `kind`, if the value is not a function, or takes another number of arguments.

    Examples:
        >>> from tensorfact.errors import TrainingError
        >>> callback(lambda logits: logits.sum(), "fit: loss", TrainingError, takes="logits, labels", example="loss")
        Traceback (most recent call last):
        tensorfact.errors.TrainingError: fit: loss: expected a function of (logits, labels), got a function of \
(logits). Fix: loss=loss.
    """
    got = quoted(value)
    if callable(value) and not isinstance(value, type):
        try:
            signature = inspect.signature(value.forward if isinstance(value, nn.Module) else value)
        except (TypeError, ValueError):  # of a built-in function
            return value
        try:
            signature.bind(*takes.split(","))
        except TypeError:
            got = f"a function of ({', '.join(signature.parameters)})"
        else:
            return value
    expected = f"{beside} a function of ({takes})".lstrip()
    raise kind(argument, expected=expected, got=got, fix=f"{_name(argument)}={example}")


def file_path(value: object, argument: str, kind: ErrorClass, *, example: str = "adapter.safetensors") -> Path:
    """Check that a value is a `str` or an `os.PathLike`, and return it as a `Path`.

    Args:
        value: The value to check.
        argument: Where the value was passed, as in `load_adapter: path`.
        kind: Class of the error.
        example: A valid value, for the fix.

    Raises:
        TensorfactError: Of class `kind`, if the value is of another type, empty, too long, or has a character that
            no path has.
    """
    given = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(given, str) or not given or "\0" in given:
        raise _refused(kind, argument, "a path: a str or an os.PathLike", value, example)
    if reason := _no_path(given):
        raise kind(argument, expected="a path", got=f"{reason}: {given}", fix=f"{_name(argument)}={example!r}")
    return Path(given)


def _no_path(text: str) -> str:
    """Return why the system cannot look for a path, which is an OSError of every use of it; empty if it can."""
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:
        return "a character that no file name has"
    long = len(raw) >= _LONGEST_PATH or any(len(part) > _LONGEST_NAME for part in raw.split(os.fsencode(os.sep)))
    return "File name too long" if long else ""


def _refused(kind: ErrorClass, argument: str, expected: str, got: object, example: object) -> TensorfactError:
    return kind(argument, expected=expected, got=quoted(got), fix=f"{_name(argument)}={example!r}")


def _name(argument: str) -> str:
    """Return the name in `owner: name`."""
    return argument.rpartition(": ")[2]


def _is_bool(value: object) -> bool:
    """Return whether a value is a bool of Python, numpy or torch, which also counts as a number."""
    dtype = getattr(value, "dtype", None)
    return isinstance(value, bool) or dtype == torch.bool or dtype == numpy.bool_

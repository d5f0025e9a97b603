"""Dataclasses from JSON data that others may have changed: the type of every field is checked."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar

from ...errors import CheckpointError, SweepError
from ...storage.reading import read_text
from ...storage.writing import reason

T = TypeVar("T")

_LARGEST = {int: 2**53, float: 1e300}
"""JSON numbers are exact up to the one; sums and squares of means stay finite up to the other."""
_WORDS: dict[object, str] = {
    int: "an int below 2**53",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
    NoneType: "null",
    tuple: "a list",
    Mapping: "an object",
}


def read_json(
    path: Path,
    cause: str = "the folder holds no sweep",
    fix: str = "pass a folder written by `tensorfact sweep --out FOLDER`",
) -> object:
    """Read a JSON file.

    Args:
        path: The file.
        cause: The usual cause if it cannot be read, for the error message.
        fix: What to do then.

    Raises:
        SweepError: It is missing, not a file or not valid JSON.
    """
    try:
        text = read_text(path)
    except CheckpointError as error:
        raise SweepError(f"cannot read {path}", got=reason(error.__cause__ or error), cause=cause, fix=fix) from error
    return parse_json(text, str(path))


def parse_json(text: str, what: str) -> object:
    """Parse JSON.

    Args:
        text: JSON text.
        what: Name of the file or object, for the error message.

    Raises:
        SweepError: Invalid JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SweepError(
            f"{what} is not valid JSON", got=str(error), fix="delete the file and write it again"
        ) from error


def build(cls: type[T], data: object) -> T:
    """Build a dataclass from JSON data.

    Args:
        cls: The dataclass.
        data: Values of its fields by name.

    Raises:
        SweepError: A field is missing, unknown, of another type or invalid.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # T is a dataclass
    needed = {name for name, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if not isinstance(data, Mapping) or not needed <= data.keys() <= fields.keys():
        raise SweepError(
            f"stored {cls.__name__} with other fields",
            expected=", ".join(fields),
            got=repr(sorted(data)) if isinstance(data, Mapping) else type(data).__name__,
            cause="another version of tensorfact wrote it, or it was edited by hand",
            fix="write it with `tensorfact sweep --specs`, or pass another folder: --out runs/other",
        )
    kinds = typing.get_type_hints(cls)
    return cls(**{name: typed(kinds[name], value, f"{cls.__name__}: {name}") for name, value in data.items()})


def typed(kind: Any, value: object, where: str) -> Any:
    """Return JSON data as a value of a type, with dataclasses and tuples in place of objects and lists.

    Args:
        kind: The type: a dataclass, `int`, `float`, `str`, `bool`, `None`, or a union, `Literal`, tuple or mapping of
            such types.
        value: The JSON data.
        where: Name of the field, for the error message.

    Raises:
        SweepError: The value is not of this type.
    """
    outer, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return build(kind, value)  # type: ignore[arg-type]  # a class, not an instance
    if outer in (UnionType, typing.Union):
        fitting = [each for each in inner if isinstance(value, _json_type(each))]
        return typed(fitting[0] if fitting else inner[0], value, where)
    if outer is Literal and isinstance(value, str) and value in inner:
        return value
    if outer is tuple and isinstance(value, list):
        return tuple(typed(inner[0], each, where) for each in value)
    if outer is Mapping and isinstance(value, dict):
        return {typed(inner[0], key, where): typed(inner[1], each, where) for key, each in value.items()}
    if outer in _LARGEST and isinstance(value, (int, outer)) and not isinstance(value, bool):
        if abs(value) < _LARGEST[outer]:  # NaN is not
            return value
    elif type(value) is outer and (outer is not str or not _is_broken(value)):
        return value
    raise SweepError(
        f"stored {where}",
        expected=_WORDS.get(outer) or f"one of {', '.join(map(repr, inner))}",
        got=type(value).__name__ if isinstance(value, (list, dict)) else repr(value),
        cause="the file was edited by hand, or is damaged",
        fix="delete the file and run the sweep again",
    )


def _json_type(kind: Any) -> tuple[type, ...]:
    """Return the types of JSON data that may be of a type."""
    outer = typing.get_origin(kind) or kind
    return {float: (int, float), tuple: (list,), Mapping: (dict,)}.get(outer, (outer,))


def _is_broken(text: object) -> bool:
    """Return whether a text holds half a character, which no file can hold."""
    return any("\ud800" <= letter <= "\udfff" for letter in str(text))

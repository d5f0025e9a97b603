"""Names for formats, used in files and on the command line. In Python a format object is passed as it is."""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ..errors import FormatError, nearest
from .base import Format
from .cp import CP
from .matrix_batch import MatrixBatch
from .tensor_ring import TensorRing
from .tensor_train import TensorTrain
from .tucker import Tucker

_formats: dict[str, type[Format]] = {}


def register_format(name: str, format: type[Format]) -> None:
    """Give a format a name in files and on the command line.

    Args:
        name: The name; case does not count, and `_` is read as `-`.
        format: A frozen dataclass derived from `Format`.

    Raises:
        FormatError: The name is taken, or `format` is not a dataclass derived from `Format`.

    Examples:
        >>> import dataclasses, tensorfact as tf
        >>> @dataclasses.dataclass(frozen=True)
        ... class Mine(tf.TensorTrain):
        ...     pass
        >>> tf.register_format("mine", Mine)
        >>> tf.get_format("MINE") is Mine
        True
    """
    key = _normal(name)
    if not (isinstance(format, type) and issubclass(format, Format) and dataclasses.is_dataclass(format)):
        raise FormatError(f"register_format({name!r})", expected="a dataclass derived from Format", got=repr(format))
    if "name" in {f.name for f in dataclasses.fields(format)}:
        raise FormatError(f"{format.__name__}: an option cannot be called 'name', which names the format in files")
    if _formats.get(key, format) is not format:
        raise FormatError(f"format name {key!r} is taken by {_formats[key].__name__}", fix="choose another name")
    _formats[key] = format


def get_format(name: str) -> type[Format]:
    """Return the format class of a name.

    Args:
        name: A registered name; case does not count, and `_` is read as `-`.

    Raises:
        FormatError: No format has this name.

    Examples:
        >>> get_format("matrix_batch").__name__
        'MatrixBatch'
    """
    key = _normal(name)
    if key not in _formats:
        raise FormatError(
            f"unknown format {name!r}",
            expected=f"one of {', '.join(available_formats())}",
            got=f"{name!r}{nearest(key, _formats)}",
            fix="see `tensorfact formats`, or call register_format first",
        )
    return _formats[key]


def available_formats() -> tuple[str, ...]:
    """Return the registered names, sorted.

    Examples:
        >>> {"cp", "matrix-batch", "tt", "tucker"} <= set(available_formats())
        True
    """
    return tuple(sorted(_formats))


def parse_format(text: str) -> Format:
    """Read a format as written on the command line.

    Args:
        text: A name and its options: `tt:rank=16`, `tucker:rank=(4,8,8)`.

    Raises:
        FormatError: An unknown name or option, or a value that cannot be read.

    Examples:
        >>> parse_format("tt:rank=16")
        TensorTrain(rank=16, order=None)
    """
    name, _, rest = text.partition(":")
    cls = get_format(name)
    try:
        call = ast.parse(f"f({rest})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError(rest)  # noqa: TRY301
        options = {word.arg or "": _option(word.value) for word in call.keywords}
        if len(options) < len(call.keywords):
            raise ValueError(rest)  # noqa: TRY301
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise FormatError(f"format {text!r}", expected="NAME:option=value,...", got=text, fix="tt:rank=16") from error
    return _build(name, cls, options)


def format_label(format: Format) -> str:
    """Return a short name with the options that are set, for tables.

    Examples:
        >>> format_label(TensorTrain(rank=16))
        'tt rank=16'
    """
    name = next((name for name, cls in _formats.items() if cls is type(format)), type(format).__name__)
    options = {f.name: getattr(format, f.name) for f in dataclasses.fields(format)}
    return " ".join([name, *(f"{key}={value}" for key, value in options.items() if value is not None)])


def format_to_dict(format: Format) -> dict[str, Any]:
    """Return a format as plain JSON data.

    Args:
        format: A format whose class is registered.

    Raises:
        FormatError: Its class has no name.

    Examples:
        >>> format_to_dict(Tucker(rank=8))
        {'name': 'tucker', 'rank': 8}
    """
    for name, cls in _formats.items():
        if cls is type(format):
            values = {f: getattr(format, f.name) for f in dataclasses.fields(format)}
            return {"name": name, **{f.name: value for f, value in values.items() if value != f.default}}
    raise FormatError(
        f"{type(format).__name__} has no name to be stored under",
        fix=f"call register_format('my-format', {type(format).__name__}) first",
    )


def format_from_dict(data: Mapping[str, Any]) -> Format:
    """Read what `format_to_dict` wrote.

    Args:
        data: The name and the options.

    Raises:
        FormatError: An unknown name or option, or a missing one.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise FormatError("a stored format", expected='{"name": ..., options}', got=json.dumps(data, default=repr))
    return _build(data["name"], get_format(data["name"]), {k: v for k, v in data.items() if k != "name"})


def _option(value: ast.expr) -> Any:
    """Return the value of an option; a bare word is a string: `rank=full`."""
    return value.id if isinstance(value, ast.Name) else ast.literal_eval(value)


def _build(name: str, cls: type[Format], options: Mapping[str, Any]) -> Format:
    known = {f.name: f for f in dataclasses.fields(cls)}
    missing = [n for n, f in known.items() if f.default is dataclasses.MISSING and n not in options]
    if missing or not options.keys() <= known.keys():
        raise FormatError(
            f"format {name!r}",
            expected=f"options {', '.join(known)}",
            got=", ".join(options) or "none",
            fix=f"{name}:{','.join(f'{n}=...' for n in missing or known)}",
        )
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})


def _normal(name: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise FormatError("a format's name", expected="a word", got=repr(name))
    return name.strip().lower().replace("_", "-")


register_format("tt", TensorTrain)
register_format("tucker", Tucker)
register_format("cp", CP)
register_format("matrix-batch", MatrixBatch)
register_format("tensor-ring", TensorRing)

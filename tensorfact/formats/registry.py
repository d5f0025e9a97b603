"""Names for formats, used in files and on the command line. In Python a format object is passed as it is."""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import json
import re
from collections.abc import Mapping
from typing import Any

from ..errors import FormatError, nearest
from .base import Format
from .block_term import BlockTerm
from .cp import CP
from .diagonals import Diagonals
from .gates import Gates
from .hadamard import Hadamard
from .khatri_rao import KhatriRao
from .kronecker import Kronecker
from .matrix_batch import MatrixBatch
from .monarch import Monarch
from .nested import Nested
from .options import plain_value, read_options
from .partial_tucker import PartialTucker
from .per_slice import Each
from .reshaped_tucker import ReshapedTucker
from .started import Started
from .tensor_ring import TensorRing
from .tensor_train import TensorTrain
from .tt_matrix import TTMatrix
from .tucker import Tucker

GROUP = "tensorfact.formats"
"""The entry-point group in which an installed package names its formats."""

_formats: dict[str, type[Format]] = {}


def register_format(name: str, format: type[Format]) -> None:
    """Give a format a name in files and on the command line.

    Args:
        name: The name; case does not count, and `_` is read as `-`.
        format: A frozen dataclass derived from `Format`.

    Raises:
        FormatError: The name is taken, or `format` is not a dataclass derived from `Format`.

    Examples:
        >>> import dataclasses
        >>> from tensorfact import TensorTrain, get_format, register_format
        >>> @dataclasses.dataclass(frozen=True)
        ... class Mine(TensorTrain):
        ...     pass
        >>> register_format("mine", Mine)
        >>> get_format("MINE") is Mine
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
    if key not in _formats and (entry := _installed().get(key)):
        try:
            register_format(key, entry.load())
        except Exception as error:  # whatever the other package's code raises
            owner = entry.dist.name if entry.dist else "a package"
            raise FormatError(
                f"format {key!r} of {owner} cannot be loaded from {entry.value!r}", got=repr(error), fix=f"mend {owner}"
            ) from error
    if key not in _formats:
        raise FormatError(
            f"unknown format {name!r}",
            expected=f"one of {', '.join(available_formats())}",
            got=f"{name!r}{nearest(key, _formats)}",
            fix="see `tensorfact formats`, or call register_format first",
        )
    return _formats[key]


def available_formats() -> tuple[str, ...]:
    """Return the registered names and those of installed packages, sorted.

    Examples:
        >>> {"cp", "matrix-batch", "tt", "tucker"} <= set(available_formats())
        True
    """
    return tuple(sorted({*_formats, *_installed()}))


def parse_format(text: str) -> Format:
    """Read a format as written on the command line.

    Args:
        text: A name and its options: `tt:rank=16`, `tucker:rank=(4,8,8)`, `each:format=tt(rank=5)`.

    Raises:
        FormatError: An unknown name or option, or a value that cannot be read.

    Examples:
        >>> parse_format("tt:rank=16")
        TensorTrain(rank=16, order=None)
    """
    name, _, rest = text.partition(":")
    cls = get_format(name)
    try:
        # a hyphen stands in the name of a format within this one: matrix-batch(rank=4)
        options = read_options(re.sub(r"(?<=[a-z])-(?=[a-z])", "_", rest), _option)
    except FormatError:  # of a format within this one
        raise
    except ValueError as error:
        raise FormatError(f"format {text!r}", expected="NAME:option=value,...", got=text, fix="tt:rank=16") from error
    return _build(name, cls, options)


def format_label(format: Format) -> str:
    """Return a short name with the options that are set, for tables.

    Examples:
        >>> format_label(TensorTrain(rank=16))
        'tt rank=16'
    """
    options = {
        f.name: getattr(format, f.name) for f in dataclasses.fields(format) if f.default != getattr(format, f.name)
    }
    return " ".join([_name(format) or type(format).__name__, *(f"{key}={_spelled(o)}" for key, o in options.items())])


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
    if name := _name(format):
        values = {f: getattr(format, f.name) for f in dataclasses.fields(format)}
        return {"name": name, **{f.name: plain_option(value) for f, value in values.items() if value != f.default}}
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


def _installed() -> dict[str, importlib.metadata.EntryPoint]:
    return {_normal(entry.name): entry for entry in importlib.metadata.entry_points(group=GROUP)}


def _name(format: Format) -> str:
    """Return the name of a format's class; none if it has none."""
    known = {cls: name for name, cls in _formats.items()}
    if type(format) not in known:  # a package may have given it one without being asked for it yet
        for name, entry in _installed().items():
            if entry.value == f"{type(format).__module__}:{type(format).__qualname__}":
                known[get_format(name)] = name
    return known.get(type(format), "")


def plain_option(value: Any) -> Any:
    """Return an option as JSON holds it: formats as their options, tuples as lists."""
    if isinstance(value, Format):
        return format_to_dict(value)
    return [plain_option(each) for each in value] if isinstance(value, tuple) else value


def read_option(value: Any) -> Any:
    """Undo `plain_option`."""
    if isinstance(value, Mapping) and "name" in value:
        return format_from_dict(value)
    return tuple(read_option(each) for each in value) if isinstance(value, list) else value


def _spelled(value: Any) -> str:
    """Return an option as a table shows it."""
    if isinstance(value, Format):
        return f"({format_label(value)})"
    if isinstance(value, tuple):
        return f"({', '.join(_spelled(each) for each in value)})"
    return str(value)


def _option(value: ast.expr) -> Any:
    """Return the value of an option; a bare word is a string, a call a format: `rank=full`, `format=tt(rank=5)`."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and not value.args:
        options = {word.arg or "": _option(word.value) for word in value.keywords}
        return _build(value.func.id, get_format(value.func.id), options)
    return plain_value(value, _option)


def _build(name: str, cls: type[Format], options: Mapping[str, Any]) -> Format:
    known = {f.name: f for f in dataclasses.fields(cls)}
    missing = [n for n, f in known.items() if f.default is dataclasses.MISSING and n not in options]
    if missing or not options.keys() <= known.keys():
        raise FormatError(
            f"format {name!r}",
            expected=f"options {', '.join(known)}" if known else "no options",
            got=", ".join(options) or "none",
            fix=f"{name}:{','.join(f'{n}=...' for n in missing or known)}".removesuffix(":"),
        )
    return cls(**{key: read_option(value) for key, value in options.items()})


def _normal(name: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise FormatError("a format's name", expected="a word", got=repr(name))
    return name.strip().lower().replace("_", "-")


register_format("tt", TensorTrain)
register_format("tucker", Tucker)
register_format("cp", CP)
register_format("matrix-batch", MatrixBatch)
register_format("tensor-ring", TensorRing)
register_format("partial-tucker", PartialTucker)
register_format("reshaped-tucker", ReshapedTucker)
register_format("block-term", BlockTerm)
register_format("tt-matrix", TTMatrix)
register_format("kronecker", Kronecker)
register_format("hadamard", Hadamard)
register_format("monarch", Monarch)
register_format("khatri-rao", KhatriRao)
register_format("gates", Gates)
register_format("diagonals", Diagonals)
register_format("each", Each)
register_format("nested", Nested)
register_format("started", Started)

"""Registry of format names, used in files and on the command line. Python code passes format objects."""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from ..common.aliases import JsonObject, Options
from ..common.checks import of_type, quoted
from ..errors import FormatError, naming, nearest
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

FormatLike = Format | str
"""A format, or its text as on the command line: `tt:rank=8`."""

T = TypeVar("T")

GROUP = "tensorfact.formats"
"""The entry-point group under which installed packages register formats."""

_LONGEST = 10_000
"""The most characters of a format as text."""

_MOST_VALUES, _DEEPEST = 10_000, 32
"""The most values of a stored format, and the most levels."""

_SHOWN = 200
"""The most characters of a file's options in a message."""

_formats: dict[str, type[Format]] = {}


def register_format(name: str, format: type[Format]) -> None:
    """Register a format class under a name for files and the command line.

    Args:
        name: The name; it is case-insensitive, and `_` is read as `-`.
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
        raise FormatError(
            f"{format.__name__}: option 'name' is reserved for the name in files", fix="rename the option"
        )
    if _formats.get(key, format) is not format:
        raise FormatError(f"format name {key!r} is taken by {_formats[key].__name__}", fix="choose another name")
    _formats[key] = format


def get_format(name: str) -> type[Format]:
    """Return the format class registered under a name.

    Args:
        name: A registered name; it is case-insensitive, and `_` is read as `-`.

    Raises:
        FormatError: No format is registered under this name.

    Examples:
        >>> get_format("matrix_batch").__name__
        'MatrixBatch'
    """
    key = _normal(name)
    if key not in _formats and (entry := _installed().get(key)):
        try:
            register_format(key, entry.load())
        except Exception as error:  # the other package may raise anything
            owner = entry.dist.name if entry.dist else "a package"
            raise FormatError(
                f"format {key!r} of {owner} cannot be loaded from {entry.value!r}",
                got=repr(error),
                fix=f"reinstall or uninstall {owner}",
            ) from error
    if key not in _formats:
        raise FormatError(
            f"unknown format {quoted(name)}",
            expected=f"one of {', '.join(available_formats())}",
            got=f"{quoted(name)}{nearest(key, _formats)}",
            fix="list the names with `tensorfact formats`, or call register_format first",
        )
    return _formats[key]


def available_formats() -> tuple[str, ...]:
    """Return the names of all formats, including those of installed packages, sorted.

    Examples:
        >>> {"cp", "matrix-batch", "tt", "tucker"} <= set(available_formats())
        True
    """
    return tuple(sorted({*_formats, *_installed()}))


def parse_format(text: str) -> Format:
    """Parse a format written on the command line.

    Args:
        text: A name and its options: `tt:rank=16`, `tucker:rank=(4,8,8)`, `each:format=tt(rank=5)`.

    Raises:
        FormatError: An unknown name or option, invalid syntax, or a text of more than 10,000 characters.

    Examples:
        >>> parse_format("tt:rank=16")
        TensorTrain(rank=16, order=None)
    """
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise FormatError(
            "format",
            expected=f"NAME:option=value,... of at most {_LONGEST:,} characters",
            got=quoted(text),
            fix="tt:rank=8",
        )
    name, _, rest = text.partition(":")
    cls = get_format(name)
    try:
        # inner formats may have a hyphen in their name: matrix-batch(rank=4)
        options = read_options(re.sub(r"(?<=[a-z])-(?=[a-z])", "_", rest), _option)
    except FormatError:  # of an inner format
        raise
    except ValueError as error:
        raise FormatError(
            f"format: {error}", expected="NAME:option=value,...", got=quoted(text), fix=_spelled_example(name, cls)
        ) from error
    return _build(name, cls, options)


def as_format(value: FormatLike, argument: str) -> Format:
    """Return a format that was given as an object or as text.

    Args:
        value: A format, or its text as in `parse_format`.
        argument: Where it was passed, for messages.

    Raises:
        FormatError: It is neither, or the text cannot be parsed.

    Examples:
        >>> as_format("tt:rank=16", "format")
        TensorTrain(rank=16, order=None)
    """
    if isinstance(value, str):
        with naming(argument):
            return parse_format(value)
    if not isinstance(value, Format):
        raise FormatError(
            argument,
            expected="a Format object such as TensorTrain(rank=8), or its text such as 'tt:rank=8'",
            got=repr(value)[:_SHOWN],
            fix="pass TensorTrain(rank=8) or 'tt:rank=8'",
        )
    return value


def labelled(formats: Mapping[str, T] | Iterable[FormatLike], owner: str) -> dict[str, T | Format]:
    """Return formats by the label of their row in a table.

    Args:
        formats: Formats by label, or formats, which are labelled by `format_label`.
        owner: The function that they were passed to, for messages.

    Raises:
        FormatError: A format in an iterable is invalid.
    """
    if isinstance(formats, Mapping):
        return dict(formats)
    each = [formats] if isinstance(formats, (str, Format)) else formats
    found = [as_format(format, f"{owner}: formats") for format in each]
    labels = [format_label(format) for format in found]
    if len(set(labels)) < len(labels):
        raise FormatError(f"{owner}: formats", expected="no duplicates", got=", ".join(labels), fix="pass each once")
    return dict(zip(labels, found, strict=True))


def format_label(format: Format) -> str:
    """Return the name of a format with its non-default options, for tables.

    Examples:
        >>> format_label(TensorTrain(rank=16))
        'tt rank=16'
    """
    of_type(format, Format, "format", FormatError, expected="a Format", example="TensorTrain(rank=4)")
    options = {
        f.name: getattr(format, f.name) for f in dataclasses.fields(format) if f.default != getattr(format, f.name)
    }
    return " ".join([_name(format) or type(format).__name__, *(f"{key}={_spelled(o)}" for key, o in options.items())])


def format_to_dict(format: Format) -> JsonObject:
    """Serialize a format to a JSON object.

    Args:
        format: A format whose class is registered.

    Raises:
        FormatError: The class of the format is not registered.

    Examples:
        >>> format_to_dict(Tucker(rank=8))
        {'name': 'tucker', 'rank': 8}
    """
    if name := _name(format):
        values = {f: getattr(format, f.name) for f in dataclasses.fields(format)}
        return {"name": name, **{f.name: plain_option(value) for f, value in values.items() if value != f.default}}
    raise FormatError(
        f"{type(format).__name__} is not registered, so it cannot be saved",
        fix=f"call register_format('my-format', {type(format).__name__}) first",
    )


def format_from_dict(data: Options) -> Format:
    """Restore a format from the JSON object that `format_to_dict` returns.

    Args:
        data: The name of the format and its options.

    Raises:
        FormatError: An unknown name, an unknown or missing option, more than 10,000 values, or more than 32 levels.
    """
    _check_extent(data)
    return _from_dict(data)


def _check_extent(data: object) -> None:
    """Refuse data that is larger or deeper than any format; it may come from a damaged file."""
    level, count, depth = [data], 0, 0
    while level:
        inner: list[object] = []
        for value in level:
            inner += value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
        count, depth, level = count + len(level), depth + 1, inner
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise FormatError(
                "stored format",
                expected=f"at most {_MOST_VALUES:,} values in {_DEEPEST} levels",
                got="more values" if count > _MOST_VALUES else "more levels",
                cause="a damaged file",
                fix='{"name": "tt", "rank": 4}',
            )


def _from_dict(data: Options) -> Format:
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise FormatError("stored format", expected='{"name": "tt", "rank": 4}', got=quoted(data))
    return _build(data["name"], get_format(data["name"]), {k: v for k, v in data.items() if k != "name"})


def _installed() -> dict[str, importlib.metadata.EntryPoint]:
    return {_normal(entry.name): entry for entry in importlib.metadata.entry_points(group=GROUP)}


def _name(format: Format) -> str:
    """Return the registered name of a format's class, or an empty string."""
    known = {cls: name for name, cls in _formats.items()}
    if type(format) not in known:  # an entry point that is not loaded yet may name it
        for name, entry in _installed().items():
            if entry.value == f"{type(format).__module__}:{type(format).__qualname__}":
                known[get_format(name)] = name
    return known.get(type(format), "")


def plain_option(value: object) -> object:
    """Convert an option to JSON: formats to objects, tuples to lists."""
    if isinstance(value, Format):
        return format_to_dict(value)
    return [plain_option(each) for each in value] if isinstance(value, tuple) else value


def read_option(value: object) -> object:
    """Restore an option from JSON: the inverse of `plain_option`."""
    if isinstance(value, Mapping) and "name" in value:
        return _from_dict(value)
    return tuple(read_option(each) for each in value) if isinstance(value, list) else value


def _spelled(value: object) -> str:
    """Return the text of an option in a table."""
    if isinstance(value, Format):
        return f"({format_label(value)})"
    if isinstance(value, tuple):
        return f"({', '.join(_spelled(each) for each in value)})"
    return str(value)


def _option(value: ast.expr) -> object:
    """Evaluate an option: a bare word is a string, and a call is a format, as in `rank=full` or `format=tt(rank=5)`."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and not value.args:
        options = {word.arg or "": _option(word.value) for word in value.keywords}
        return _build(value.func.id, get_format(value.func.id), options)
    return plain_value(value, _option)


_EXAMPLES = {"rank": "4", "format": "tt(rank=4)", "blocks": "2"}


def _build(name: str, cls: type[Format], options: Options) -> Format:
    known = {f.name: f for f in dataclasses.fields(cls)}
    missing = [n for n, f in known.items() if f.default is dataclasses.MISSING and n not in options]
    if missing or not options.keys() <= known.keys():
        raise FormatError(
            f"format {quoted(name)}",
            expected=f"options {', '.join(known)}" if known else "no options",
            got=", ".join(options)[:_SHOWN] or "none",
            fix=_spelled_example(name, cls, missing),
        )
    return cls(**{key: read_option(value) for key, value in options.items()})


def _spelled_example(name: str, cls: type[Format], options: Iterable[str] = ()) -> str:
    """Return a format as it is typed, with some of its options; default: those that it needs, else all of them."""
    known = {f.name: f.default is dataclasses.MISSING for f in dataclasses.fields(cls)}
    shown = list(options) or [option for option, needed in known.items() if needed] or list(known)
    needed = ",".join(f"{option}={_EXAMPLES.get(option, '...')}" for option in shown)
    return f"{name}:{needed}" if needed else name


def _normal(name: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise FormatError("format name", expected="a non-empty str", got=repr(name))
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

"""The exception tree. Every error of the library is a `TensorfactError`.

```text
TensorfactError
├── PlanError            an invalid rule, group or plan, or a plan that does not fit the model
│   ├── NoMatchError     a rule matches no parameter
│   ├── ClaimError       two rules claim one parameter, or two slices overlap
│   └── SizeError        a size that does not divide, or two sizes for one axis
├── NetworkError         cores and legs that do not form an einsum
├── FormatError          an unknown format or option
│   └── RankError        a rank below 1, or above the maximum for the modes
├── AdaptError           a model that cannot be adapted, or an adapter in the wrong state
│   └── UnusedError      an adapted parameter that the forward pass does not use
├── CheckpointError      a damaged, foreign or unreadable file
│   └── FingerprintError a file made for another base model
├── DeviceError          a device that torch cannot use on this machine
├── DataError            missing, damaged or mislabelled data
├── TrainingError        invalid training options, nothing to train, or invalid labels
│   └── DivergedError    a loss that is no longer finite
└── SweepError           an invalid sweep, or a run folder that cannot be resumed
```
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator

_QUOTE, _PART = 200, 1000
"""The most characters of a quoted text, and of a part of a message."""


def printable(text: str) -> str:
    r"""Return a text on one line, its control and direction characters escaped, so that a terminal only shows it.

    Args:
        text: Any text, such as a name in a file.

    Examples:
        >>> printable("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    if text.isprintable():
        return text
    spaced = re.sub(r"[\t\n\v\f\r]+", " ", text)
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in spaced)


def _brief(text: str, most: int) -> str:
    """Return a printable text that quotes little, however much a file holds."""
    text = re.sub(rf"'[^']{{{_QUOTE},}}'", lambda quoted: f"{quoted[0][:_QUOTE]}...'", printable(text))
    return text if len(text) <= most else f"{text[:most]}..."


class TensorfactError(Exception):
    """Base class of all errors; the message is one line: problem, expected, got, usual cause, fix.

    Control characters are escaped, and long texts are cut, since a message may quote a file.

    Args:
        problem: What is wrong, naming the argument, rule, parameter or file.
        expected: The valid values.
        got: The value that was passed.
        cause: The usual cause.
        fix: What to type or do.

    Examples:
        >>> from tensorfact.errors import RankError
        >>> print(RankError("TensorTrain: bond 0", expected="1 to 12", got="16", fix="use rank=12"))
        TensorTrain: bond 0: expected 1 to 12, got 16. Fix: use rank=12.
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: str = "",
        got: str = "",
        cause: str = "",
        fix: str = "",
    ) -> None:
        problem, expected, cause, fix = (_brief(part, _PART) for part in (problem, expected, cause, fix))
        self.problem = problem
        got = _brief(got, _QUOTE)
        contrast = []
        if expected:
            contrast.append(f"expected {expected}")
        if got:
            contrast.append(f"got {got}")
        sentences = [f"{problem}: {', '.join(contrast)}" if contrast else problem]
        if cause:
            sentences.append(f"Usual cause: {cause}")
        if fix:
            sentences.append(f"Fix: {fix}")
        super().__init__(" ".join(s if s.endswith("?") else f"{s.rstrip('.')}." for s in sentences))


class PlanError(TensorfactError, ValueError):
    """An invalid rule, group or plan, or a plan that does not fit the model."""


class NoMatchError(PlanError):
    """A rule that matches no parameter of the model."""


class ClaimError(PlanError):
    """A parameter claimed by two rules, or two slices of a tensor that overlap."""


class SizeError(PlanError):
    """A size that does not divide, or two sizes for one axis."""


class NetworkError(TensorfactError, ValueError):
    """Cores and legs that do not form an einsum."""


class FormatError(TensorfactError, ValueError):
    """An unknown format, or an option that the format does not have."""


class RankError(FormatError):
    """A rank below 1, or above the maximum for the modes.

    Args:
        problem: As in `TensorfactError`.
        allowed: The nearest valid ranks, one per bond or mode; None if their number is wrong.
        parts: The other arguments of `TensorfactError`.
    """

    def __init__(self, problem: str, *, allowed: tuple[int, ...] | None = None, **parts: str) -> None:
        super().__init__(problem, **parts)
        self.allowed = allowed


class AdaptError(TensorfactError, ValueError):
    """A model that cannot be adapted, or an adapter in the wrong state."""


class UnusedError(AdaptError):
    """An adapted parameter that the model's forward pass does not use, so that adapting it has no effect."""


class CheckpointError(TensorfactError, ValueError):
    """A damaged, foreign or unreadable file."""


class FingerprintError(CheckpointError):
    """A file made for another base model."""


class DeviceError(TensorfactError, RuntimeError):
    """A device that torch cannot use on this machine."""


class DataError(TensorfactError, ValueError):
    """Missing, damaged or mislabelled data."""


class TrainingError(TensorfactError, RuntimeError):
    """Invalid training options, nothing to train, or invalid labels."""


class DivergedError(TrainingError):
    """A loss that is no longer finite; the same run diverges again when it is repeated."""


class SweepError(TensorfactError, ValueError):
    """An invalid sweep or run, or a run folder that cannot be resumed."""


_LONGEST = 100
"""The most characters of a word that is compared with others; longer ones come from damaged files."""


def nearest(word: str, options: Iterable[str]) -> str:
    """Return `"; did you mean X?"` for the option nearest to `word`.

    Args:
        word: The unknown name.
        options: The valid names.

    Returns:
        The hint, or an empty string if no option is close.

    Examples:
        >>> nearest("tuker", ["tt", "tucker"])
        "; did you mean 'tucker'?"
    """
    known = list(options)
    close = [] if len(word) > _LONGEST or word in known else difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


@contextlib.contextmanager
def naming(source: object) -> Iterator[None]:
    """Context manager in which errors name the file that they come from, unless they do so already.

    Args:
        source: The file's path.

    Examples:
        >>> from tensorfact.errors import SizeError
        >>> with naming("flowers.safetensors"):
        ...     raise SizeError("axis 'out' has two sizes")
        Traceback (most recent call last):
        tensorfact.errors.SizeError: flowers.safetensors: axis 'out' has two sizes.
    """
    try:
        yield
    except TensorfactError as error:
        if str(source) in str(error):
            raise
        raise type(error)(f"{source}: {error}") from error

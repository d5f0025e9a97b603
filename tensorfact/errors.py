"""The exception tree. Every error of the library is a `TensorfactError`.

```text
TensorfactError
├── PlanError            a rule, group or plan that cannot mean what it says
│   ├── NoMatchError     a rule matches no parameter
│   ├── ClaimError       two rules claim one parameter, or two slices one place
│   └── SizeError        a size that does not divide, or two sizes for one axis
├── NetworkError         cores and legs that do not make an einsum
├── FormatError          an unknown format, or options it does not have
│   └── RankError        a rank below 1 or above what the modes allow
├── AdaptError           a model that cannot take, or does not hold, the adapter
│   └── UnusedError      an adapted parameter that the model does not use
├── CheckpointError      a file that is damaged, foreign or unreadable
│   └── FingerprintError a file made for another base model
├── DeviceError          a device that torch cannot compute on here
├── DataError            data that is missing, damaged or mislabelled
├── TrainingError        nothing to train, or labels that are no class indices
│   └── DivergedError    a loss that is no longer finite
└── SweepError           no sweep, or a folder of runs that cannot be gone on with
```
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TensorfactError(Exception):
    """What went wrong, in one line that ends with the way out.

    Args:
        problem: What is wrong, naming the argument, rule, parameter or file.
        expected: What would have been right.
        got: What arrived.
        cause: The usual cause.
        fix: What to do about it.

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
        contrast = [f"expected {expected}" if expected else "", f"got {got}" if got else ""]
        sentences = [": ".join(part for part in (problem, ", ".join(filter(None, contrast))) if part)]
        sentences += [f"Usual cause: {cause}"] if cause else []
        sentences += [f"Fix: {fix}"] if fix else []
        super().__init__(" ".join(s if s.endswith("?") else f"{s.rstrip('.')}." for s in sentences))


class PlanError(TensorfactError, ValueError):
    """A rule, group or plan that cannot mean what it says."""


class NoMatchError(PlanError):
    """A rule that matches no parameter of the model."""


class ClaimError(PlanError):
    """A parameter claimed twice, or two slices in one place of a tensor."""


class SizeError(PlanError):
    """A size that does not divide, or two sizes for one axis."""


class NetworkError(TensorfactError, ValueError):
    """Cores and legs that do not make an einsum."""


class FormatError(TensorfactError, ValueError):
    """An unknown format, or options that a format does not have."""


class RankError(FormatError):
    """A rank below 1 or above what the modes allow.

    Args:
        problem: As in `TensorfactError`.
        allowed: The nearest ranks that the modes allow, one a bond or mode; None where the ranks mean nothing.
        parts: The other arguments of `TensorfactError`.
    """

    def __init__(self, problem: str, *, allowed: tuple[int, ...] | None = None, **parts: str) -> None:
        super().__init__(problem, **parts)
        self.allowed = allowed


class AdaptError(TensorfactError, ValueError):
    """A model that cannot take, or does not hold, the adapter."""


class UnusedError(AdaptError):
    """An adapted parameter that the model's forward pass does not use: an adapter without effect."""


class CheckpointError(TensorfactError, ValueError):
    """A file that is damaged, foreign or unreadable."""


class FingerprintError(CheckpointError):
    """A file made for another base model."""


class DeviceError(TensorfactError, RuntimeError):
    """A device that torch cannot compute on here."""


class DataError(TensorfactError, ValueError):
    """Data that is missing, damaged or mislabelled."""


class TrainingError(TensorfactError, RuntimeError):
    """Nothing to train, or a loss that is no number."""


class DivergedError(TrainingError):
    """A loss that is no longer finite: the run's own doing, and the same each time."""


class SweepError(TensorfactError, ValueError):
    """A sweep or a run that is not described as one, or a folder of runs that cannot be gone on with."""


def nearest(word: str, options: Iterable[str]) -> str:
    """Return `"; did you mean X?"` for the option nearest to `word`, or nothing.

    Args:
        word: What arrived.
        options: What would have been valid.

    Returns:
        The hint, empty where nothing comes close.

    Examples:
        >>> nearest("tuker", ["tt", "tucker"])
        "; did you mean 'tucker'?"
    """
    close = difflib.get_close_matches(word, list(options), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""

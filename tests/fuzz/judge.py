"""Run one case and find its problems."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn

from tensorfact.errors import TensorfactError
from tests.fuzz.case import Case, Kind, Verdict, numbers
from tests.helpers import bits
from tests.memory import mark, risen

SECONDS = 2.0
"""Processor time of one case."""

LONGEST = 3000
"""Characters of a message."""


class HangError(BaseException):
    """A case that takes too long; no `except Exception` catches it."""


def run_case(kind: str, make: Kind, seed: int, number: int, folder: Path) -> Verdict:
    """Make a case and judge it.

    Args:
        kind: Name of the kind.
        make: Makes the cases of this kind.
        seed: Seed of all cases.
        number: Number of the case.
        folder: An empty folder for its files; it is removed.
    """
    folder.mkdir()
    try:
        return judge(kind, number, make(numbers(seed, kind, number), folder), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def judge(kind: str, number: int, case: Case, folder: Path) -> Verdict:
    """Run a case and compare its models, files, time and memory with those before."""
    models, files = [marks(model) for model in case.models], contents(folder)
    allowed = 20 * (sum(map(len, files.values())) + case.other) + 50_000_000
    problems: list[str] = []
    where, outcome, started = "", "failed", time.process_time()
    before = mark()
    try:
        with warnings.catch_warnings(), limited():
            warnings.simplefilter("ignore")
            result = case.act()
            outcome = "valid"
            if case.use is not None:
                case.use(result)
    except HangError as error:
        problems, where = ["hangs"], place(error)
    except BaseException as error:
        where = place(error)
        if outcome == "valid" or not isinstance(error, TensorfactError):
            problems.append("bare")
        else:
            outcome = "refused"
            problems += ["message"] if _unclear(str(error), case.named) else []
    if time.process_time() - started > 0.9 * SECONDS and "hangs" not in problems:  # the case may catch the alarm
        problems.append("hangs")
    peak = risen(before)
    left = contents(folder)
    if peak > allowed:
        problems.append("memory")
        where = f"{peak:,} bytes, {allowed:,} allowed; {where}"
    changed = models != [marks(model) for model in case.models] or not files.items() <= left.items()
    added = left.keys() > files.keys() and not case.begins
    if (outcome != "valid" and (changed or added)) or any(name.endswith(".tmp") for name in left):
        problems.append("half-changed")
    outcome = "failed" if {"bare", "hangs"} & {*problems} else outcome
    return Verdict(kind, number, outcome, tuple(dict.fromkeys(problems)), where, case.what[:300])


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise a `HangError` after some processor time, and again if something has caught it."""

    def stop(number: int, frame: object) -> None:
        raise HangError(f"more than {SECONDS:g} s")

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def marks(model: nn.Module) -> dict[str, object]:
    """Return everything that a call may change on a model, comparable with ==."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    modules = list(model.modules())
    return {
        "classes": [(name, type(module)) for name, module in model.named_modules()],
        "attributes": [sorted(vars(module)) for module in modules],
        "hooks": [[len(value) for name, value in sorted(vars(m).items()) if name.endswith("_hooks")] for m in modules],
        "modes": [module.training for module in modules],
        "tensors": [(name, tensor.requires_grad, _numbers(tensor)) for name, tensor in tensors],
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the files in a folder by their relative paths."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def place(error: BaseException) -> str:
    """Return the innermost line of the package that an error passed through, and the error on one line."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tensorfact/" in frame.filename]
    line = f"{frames[-1].filename.rpartition('/tensorfact/')[2]}:{frames[-1].lineno}" if frames else "outside"
    return f"{line} {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _numbers(tensor: Tensor) -> object:
    return (tensor.dtype, tuple(tensor.shape), b"" if tensor.is_meta else bits(tensor))


def _unclear(message: str, named: Path | None) -> bool:
    return len(message.splitlines()) > 1 or len(message) > LONGEST or (named is not None and str(named) not in message)

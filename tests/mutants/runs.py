"""Runs of pytest in forks of this process, which has imported the libraries but not the package."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Collection, Sequence

import pytest

from .changes import ROOT, Finder, Mutant

OPTIONS = (
    *("-q", "-p", "no:cacheprovider", "--hypothesis-profile=mutants"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # the plugins were imported before the fork
)


def prepare(*libraries: str) -> None:
    """Import what the tests need beside the package, once for all forks.

    Args:
        libraries: The names of libraries that some tests use.
    """
    import hypothesis
    import torch

    for library in libraries:
        importlib.import_module(library)
    torch.set_num_threads(1)
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # a failing example is not made simpler
    hypothesis.settings.register_profile("mutants", deadline=None, max_examples=15, derandomize=True, phases=phases)


class Selected:
    """A plugin of pytest that runs some tests only.

    Args:
        names: The ids of the tests.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.names = frozenset(names)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave the others out."""
        items[:] = [item for item in items if item.nodeid in self.names]


def in_a_fork(task: Callable[[], int], limit: float) -> int | None:
    """Run a function in a fork of this process, without output.

    Args:
        task: The function; it returns the status of the fork.
        limit: Seconds after which the fork is killed.

    Returns:
        The status, or None if the fork did not end in time.
    """

    def quietly() -> None:
        os.setsid()
        os.chdir(ROOT)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os._exit(task())

    child = multiprocessing.get_context("fork").Process(target=quietly)
    child.start()
    child.join(limit)
    status = child.exitcode
    if child.pid:
        with contextlib.suppress(ProcessLookupError):  # what it has started ends with it
            os.killpg(child.pid, signal.SIGKILL)
    child.join()
    return status


def passes(names: Sequence[str], mutant: Mutant | None, limit: float) -> bool:
    """Return whether tests pass on a mutant in a number of seconds; the files run in the order of their first test."""
    files = list(dict.fromkeys(name.partition("::")[0] for name in names))

    def test() -> int:
        if mutant:
            sys.meta_path.insert(0, Finder(mutant))
        return int(pytest.main([*OPTIONS, "-x", *files], plugins=[Selected(names)]))

    return in_a_fork(test, limit) == pytest.ExitCode.OK

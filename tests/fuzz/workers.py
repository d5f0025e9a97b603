"""Run cases in forked processes; one that stops answering is ended and counted."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.fuzz.case import Kind, Verdict
from tests.fuzz.judge import run_case

PATIENCE = 60.0
"""Seconds without an answer after which a process is ended: longer than a case may take on a busy machine."""

SPARE = 3 << 30
"""Address space that a process may use beyond that of the libraries."""

CaseId = tuple[str, int]
"""The kind of a case, and its number among those of its kind."""


class Worker:
    """A forked process and the cases that it has still to run."""

    def __init__(self, kinds: Mapping[str, Kind], seed: int, cases: Sequence[CaseId], folder: Path) -> None:
        self.kinds, self.seed, self.left, self.folder = kinds, seed, list(cases), folder
        context = multiprocessing.get_context("fork")
        self.answers, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(kinds, seed, self.left, folder, theirs), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which wait and hold no lock
            self.process.start()
        theirs.close()
        self.last = time.monotonic()

    def answer(self) -> Verdict | None:
        """Return the verdict on the next case; None if all are done. A process that ended is a failure of its case."""
        try:
            found: Verdict | None = self.answers.recv()
        except EOFError:
            self.process.join()
            found = (
                self.lost("bare", f"the process ended with exit code {self.process.exitcode}") if self.left else None
            )
        self.left = self.left[1:]
        self.last = time.monotonic()
        return found

    def lost(self, problem: str, reason: str) -> Verdict:
        """Return the verdict on a case that gave no answer."""
        return Verdict(*self.left[0], "failed", (problem,), f"outside {reason}")

    def silent(self, patience: float) -> bool:
        """Return whether there was no answer for too long."""
        return bool(self.left) and time.monotonic() - self.last > patience

    def stop(self) -> None:
        """End the process and remove its files."""
        self.process.kill()
        self.process.join()
        self.answers.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def run_cases(
    kinds: Mapping[str, Kind],
    seed: int,
    cases: Sequence[CaseId],
    *,
    processes: int = 2,
    seconds: float | None = None,
    patience: float = PATIENCE,
) -> Iterator[Verdict]:
    """Run cases and yield what became of each.

    Args:
        kinds: What makes the cases, by kind.
        seed: Seed of all cases.
        cases: Kind and number of each case.
        processes: Number of processes.
        seconds: Stop after this time; by default, run all cases.
        patience: Seconds without an answer after which a process is ended.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        made = 0

        def fork(left: Sequence[CaseId]) -> Worker:
            nonlocal made
            made += 1
            return Worker(kinds, seed, left, Path(root, str(made)))

        workers = [fork(cases[first::processes]) for first in range(min(processes, len(cases)))]
        try:
            while workers and (seconds is None or time.monotonic() - started < seconds):
                ready = wait([worker.answers for worker in workers], timeout=0.5)
                for worker in list(workers):
                    found = None
                    if worker.answers in ready:
                        found = worker.answer()
                    elif worker.silent(patience):
                        found = worker.lost("hangs", f"no answer for {patience:g} s")
                        worker.left = worker.left[1:]
                    else:
                        continue
                    if found is not None:
                        yield found
                    if not worker.left or "outside" in (found.where if found else "").split()[:1]:
                        worker.stop()
                        workers.remove(worker)
                        workers += [fork(worker.left)] if worker.left else []
        finally:
            for worker in workers:
                worker.stop()


def _work(
    kinds: Mapping[str, Kind], seed: int, cases: Sequence[CaseId], folder: Path, answers: Connection[Any, Any]
) -> None:
    """Run the cases of one process, without output, with a limit on its memory."""
    folder.mkdir()
    os.chdir(folder)
    tempfile.tempdir = str(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if _linux() else 0
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, resource.RLIM_INFINITY))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        for index, (kind, number) in enumerate(cases):
            answers.send(run_case(kind, kinds[kind], seed, number, folder / str(index)))


def _linux() -> bool:
    return os.path.exists("/proc/self/statm")

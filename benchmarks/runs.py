"""Runs of a benchmark in several processes, whose results are kept in one file and never computed twice."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from tensorfact.lab.sweep.engines import follow_parent

Found = dict[str, float | None]
"""Numbers of one run by name; None where it has none, as of a run that diverged."""

Known = dict[str, Found]
"""Finished runs by key."""

T = TypeVar("T", bound=Hashable)


def read(path: Path) -> Known:
    """Return the finished runs in a file; none if it does not exist.

    Args:
        path: The file.
    """
    found: Known = json.loads(path.read_text()) if path.exists() else {}
    return found


def write(path: Path, known: Known) -> None:
    """Write the finished runs, one run a line.

    Args:
        path: The file.
        known: The runs.
    """
    lines = (f"{json.dumps(key)}: {json.dumps(known[key], sort_keys=True)}" for key in sorted(known))
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def complete(
    path: Path,
    wanted: Callable[[Known], Iterable[T]],
    key: Callable[[T], str],
    execute: Callable[[T], Found],
    *,
    processes: int = 2,
    limit: float = float("inf"),
) -> Known:
    """Execute the runs that are missing in a file until none is left or the time is over.

    Args:
        path: The file, written after every run.
        wanted: Returns the runs that can be executed, given the finished ones, which may determine further ones.
        key: Returns the key of a run.
        execute: Executes a run, in a process of its own; it must be a function of a module.
        processes: Number of processes.
        limit: Seconds after which no run begins.

    Returns:
        The finished runs.
    """
    end, known = time.monotonic() + limit, read(path)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), follow_parent) as pool:
        while time.monotonic() < end:
            missing = [run for run in dict.fromkeys(wanted(known)) if key(run) not in known]
            if not missing:
                break
            waiting = iter(missing)
            running = {pool.submit(execute, run): run for _, run in zip(range(processes), waiting, strict=False)}
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    known[key(running.pop(future))] = future.result()
                    write(path, known)
                    more = next(waiting, None) if time.monotonic() < end else None
                    if more is not None:
                        running[pool.submit(execute, more)] = more
    return known


def asked(benchmark: str, about: str | None, *flags: tuple[str, str]) -> argparse.Namespace:
    """Return the options of the command line of a benchmark, whose processes then use one thread each.

    Args:
        benchmark: The name of its module in `benchmarks`.
        about: Its docstring.
        flags: Further flags, each with its help.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{benchmark}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", action="append", help="models and tasks to run, or how their names begin")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="the device of all runs: cpu or cuda")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no run begins")
    parser.add_argument("--table", action="store_true", help="run nothing")
    for flag, help_text in flags:
        parser.add_argument(flag, action="store_true", help=help_text)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return parser.parse_args()


def chosen(names: Iterable[str], options: argparse.Namespace) -> list[str]:
    """Return the names of the parts to run.

    Args:
        names: All names.
        options: The options of the command line.
    """
    return [name for name in names if not options.part or any(name.startswith(each) for each in options.part)]


def mean(known: Known, keys: Sequence[str], of: str) -> float | None:
    """Return the mean of a number over runs; one that diverged counts as 0, and None means that runs are missing.

    Args:
        known: The finished runs.
        keys: Keys of the runs.
        of: The name of the number.
    """
    if not keys or any(key not in known for key in keys):
        return None
    return statistics.fmean(known[key].get(of) or 0.0 for key in keys)


def percent(value: float | None) -> str:
    """Return an accuracy in percent, or nothing.

    Args:
        value: The accuracy between 0 and 1.
    """
    return "" if value is None else f"{100 * value:.1f}"

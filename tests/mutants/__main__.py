"""Test a sample of mutants, and print the survivors and the score of each room.

    python -m tests.mutants --points 200 --seed 0 --rooms plan network adapters storage

The libraries are imported once. First every test file is run under coverage.py, in a fork of that process, to know
which tests run which line; this is kept in `runs/mutants` until a source changes. Each mutant is then a fork that
imports the package with one module changed and runs the tests that run the changed statement: those of the module, then
all others, fast ones first, up to two minutes of them. A mutant is killed if a test fails, or does not end in time.
Mutants that behave like the original are listed in `equivalent.txt`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor

from .changes import Mutant, equivalent, every_mutant
from .covering import covering, records
from .runs import passes, prepare

AT_MOST = 120.0


def survives(mutant: Mutant, stages: Sequence[Sequence[str]], seconds: float) -> bool:
    """Return whether every test of a mutant passes in twice the time that the tests take without the change."""
    return all(passes(names, mutant, 2 * seconds + 60) for names in stages if names)


def survivors(sample: Sequence[Mutant], pool: Executor) -> list[Mutant]:
    """Return the mutants that no test notices; print each one as it was tested."""
    every = records(pool)
    chosen = [covering(mutant, every, AT_MOST) for mutant in sample]
    outcomes = pool.map(survives, sample, [each[:2] for each in chosen], [each[2] for each in chosen])
    left = []
    for mutant, survived in zip(sample, outcomes, strict=True):
        if survived:
            left.append(mutant)
        word = "passes" if survived else "killed"
        print(f"{time.strftime('%H:%M:%S')} {word}: line {mutant.line} | {mutant.name}", flush=True)  # noqa: T201
    return left


def report(rooms: Iterable[str], sample: Sequence[Mutant], left: Sequence[Mutant]) -> None:
    """Print the score of each room, and the survivors."""
    for room in (*rooms, ""):
        count, alive = (sum(m.path.startswith(f"tensorfact/{room}") for m in each) for each in (sample, left))
        print(f"{room or 'all'}: {count - alive} of {count} killed, {1 - alive / max(count, 1):.1%}")  # noqa: T201
    print("\n".join(f"survived: line {mutant.line} | {mutant.name}" for mutant in left))  # noqa: T201


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Test whether the tests notice changes of the package.")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="+", default=["plan", "network", "adapters", "storage"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", help="text in the names of the mutants to test")
    options = parser.parse_args()
    known = equivalent()
    every = [mutant for mutant in every_mutant(options.rooms) if mutant.name not in known]
    sample = random.Random(options.seed).sample(every, min(options.points, len(every)))
    sample = [mutant for mutant in sample if (options.only or "") in mutant.name]
    prepare("timm", "transformers")
    start = time.monotonic()
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("fork")) as pool:
        left = survivors(sample, pool)
    report(options.rooms, sample, left)
    print(f"{time.monotonic() - start:.0f} s")  # noqa: T201


if __name__ == "__main__":
    main()

"""Run the fuzzer: `python -m tests.fuzz --cases 12000 --seed 0`, or one case with `--kind KIND --case NUMBER`."""

from __future__ import annotations

import argparse
import os
import sys
import time

import torch

from tests.fuzz.kinds import KINDS, prepare, schedule
from tests.fuzz.report import counts, failure
from tests.fuzz.workers import run_cases


def main() -> int:
    """Run the cases that the command line names; return 1 if any has a problem."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=12_000, help="number of cases of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="stop after this time")
    parser.add_argument("--kind", choices=KINDS, help="only this kind")
    parser.add_argument("--case", type=int, help="only this case of the kind")
    parser.add_argument("--processes", type=int, default=2)
    words = parser.parse_args()
    if words.case is not None and words.kind is None:
        parser.error("--case needs --kind")
    cases = [(words.kind, number) for number in range(words.cases)] if words.kind else schedule(words.cases)
    if words.case is not None:
        cases = [(words.kind, words.case)]
    torch.set_num_threads(1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    started = time.monotonic()
    prepare()
    found = []
    for verdict in run_cases(KINDS, words.seed, cases, processes=words.processes, seconds=words.seconds):
        found.append(verdict)
        if verdict.problems:
            print(failure(verdict, words.seed), flush=True)  # noqa: T201
    print(f"\n{counts(found)}\n\nseed {words.seed}, {time.monotonic() - started:.0f} s")  # noqa: T201
    return int(any(verdict.problems for verdict in found))


if __name__ == "__main__":
    sys.exit(main())

"""What a machine with a GPU is asked for: the CUDA tests, the benchmarks, and runs of the sweep of real tasks.

    make gpu-wheels             # where there is a network: what the machine may lack, into the folder gpu
    make gpu                    # on the machine: no network, no virtual environment, at most 8 minutes
    make gpu GPU_SECONDS=3600   # as long as it may take

Results are in benchmarks/results/cuda.json and docs/results/real-full.json. A second call goes on with the sweep.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time

from tensorfact.common.table import Table

GRACE = 15
"""Seconds that an interrupted step has to write what it has."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A command with its share of the time.

    Args:
        name: Name of the step.
        command: Arguments of Python; `{limit}` stands for the seconds that it has.
        most: The most seconds that it gets.
    """

    name: str
    command: str
    most: float = float("inf")

    def run(self, left: float) -> tuple[str, float]:
        """Run the command, and interrupt it when its time is over.

        Args:
            left: Seconds that are left for this step and all that follow.

        Returns:
            What came of it, and the seconds that it took.
        """
        limit, began = min(self.most, left), time.monotonic()
        if limit < GRACE:
            return "no time left", 0.0
        command = [sys.executable, *self.command.format(limit=round(limit - GRACE)).split()]
        process = subprocess.Popen(command, start_new_session=True)
        try:
            code = process.wait(limit)
            state = "done" if code == 0 else f"failed, exit code {code}"
        except subprocess.TimeoutExpired:
            state = "interrupted"
            for number in (signal.SIGINT, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE)
        return state, time.monotonic() - began


SWEEP = (
    "-m tensorfact sweep --preset real --size full --device cuda --engine pool --processes 12 --gpus 1 --no-check "
    "--limit {limit} --record docs/results/real-full.json --out runs/real-full"
)
STEPS = (
    Step("tests", "-m pytest -p no:benchmark -q -m cuda tests/test_cuda.py", 150),
    Step("benchmarks", "-m benchmarks --device cuda --patience 10", 210),
    Step("sweep", SWEEP),
)


def main() -> int:
    """Run the steps one after another, print what came of them, and return 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=480, help="seconds for everything")
    end, rows = time.monotonic() + parser.parse_args().seconds, []
    for step in STEPS:
        state, seconds = step.run(end - time.monotonic())
        rows.append((step.name, state, f"{seconds:.0f}"))
    print(Table(("step", "state", "seconds"), tuple(rows)))
    return int(any(state.startswith("failed") for _, state, _ in rows))


if __name__ == "__main__":
    sys.exit(main())

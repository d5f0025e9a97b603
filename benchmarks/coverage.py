"""Examine all architectures of timm and model types of transformers with `doctor`; write docs/results/coverage.csv.

    python -m benchmarks.coverage                      # everything, in two processes
    python -m benchmarks.coverage vit_base_patch16_224 hf:bert

Models are made on the meta device, without weights. The documentation makes its table of families from the file.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib
import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

from tensorfact.errors import DataError
from tensorfact.lab import doctor
from tensorfact.lab.models import model_shapes

COVERAGE = Path(__file__).parents[1] / "docs" / "results" / "coverage.csv"


@dataclasses.dataclass(frozen=True)
class Covered:
    """What `doctor` finds on one model.

    Args:
        family: The module of timm that defines the model, or `transformers`.
        model: The name of the model.
        plan: What makes its plan: `plan_for`, `plan_by_shape`, or empty for none.
        share: The fraction of its matrices and kernels in the tensors.
        folded: The number of parameters in the tensors.
        unused: The number of these that the forward pass does not use; empty if the model did not run.
        head: The number of parameters of the head that are trained directly.
        remarks: What stands in the way.
    """

    family: str
    model: str
    plan: str
    share: float
    folded: int
    unused: int | None
    head: int
    remarks: str


def examined(name: str) -> Covered | None:
    """Examine one model; None if its library cannot make it on the meta device."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about their own models
        try:
            model = model_shapes(name)
        except DataError:
            return None
        found = doctor(model, costs=False)
    home = type(model).__module__.rpartition(".")[2] if ":" not in name else "transformers"
    unused = None if found.unused is None else len(found.unused)
    share = round(found.share, 3)
    return Covered(
        home, name, found.plan, share, len(found.folded), unused, len(found.head), " | ".join(found.remarks)[:300]
    )


def names() -> list[str]:
    """Return the names of all architectures of timm, and of all types of transformers that have a base model."""
    timm = importlib.import_module("timm")
    kinds = importlib.import_module("transformers.models.auto.modeling_auto").MODEL_MAPPING_NAMES
    return [*timm.list_models(), *(f"hf:{kind}" for kind in kinds)]


def write(rows: Iterable[Covered], path: Path = COVERAGE) -> None:
    """Write the rows as a table of comma-separated values."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(Covered))
        for row in rows:
            writer.writerow("" if value is None else value for value in dataclasses.astuple(row))


def main() -> None:
    """Examine the models and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", help="models to print; default: all, into docs/results/coverage.csv")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=COVERAGE)
    given = parser.parse_args()
    wanted = given.models or names()
    os.environ["OMP_NUM_THREADS"] = "1"
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        found = []
        for row in pool.imap(examined, wanted, chunksize=4):
            if row is not None:
                found.append(row)
                print(row, flush=True)
    if not given.models:
        write(found, given.out)
    print(f"{len(found)} of {len(wanted)} models in {(time.perf_counter() - start) / 60:.1f} minutes", file=sys.stderr)


if __name__ == "__main__":
    main()

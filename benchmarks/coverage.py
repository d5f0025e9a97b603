"""Examine all architectures of timm and common types of transformers with `doctor`; write docs/results/coverage.csv.

    python -m benchmarks.coverage                      # everything, in two processes
    python -m benchmarks.coverage vit_base_patch16_224 hf:bert

Models are made on the meta device, without weights; those of transformers whose forward pass asks for values, and that
have at most half a billion parameters, with random ones. The documentation makes its tables from the file.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import timm

from tensorfact.common.table import Table
from tensorfact.errors import DataError
from tensorfact.lab import doctor
from tensorfact.lab.models import make_model, model_shapes

PLANS = {"plan_for": "plan_for", "plan_by_shape": "by shape", "": "none"}
HF, MOST = "hf:", 500_000_000
COVERAGE = Path(__file__).parents[1] / "docs" / "results" / "coverage.csv"


COMMON = (
    *("vit", "deit", "beit", "dinov2", "dinov3_vit", "vit_mae", "clip", "siglip"),
    *("swin", "convnext", "resnet", "segformer", "detr"),
    *("bert", "roberta", "xlm-roberta", "electra", "distilbert", "deberta-v2", "albert", "modernbert", "mpnet"),
    *("gpt2", "gptj", "gpt_neox", "bloom", "falcon", "opt"),
    *("llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "phi", "phi3"),
    *("t5", "bart", "mbart", "marian", "whisper", "wav2vec2"),
)
"""Common types of transformers, which `plan_for` knows."""

OTHERS = (
    *("camembert", "mobilebert", "squeezebert", "big_bird", "roformer", "ernie", "layoutlm"),
    *("gpt_neo", "codegen", "stablelm", "olmo2", "starcoder2", "cohere", "gemma2", "glm", "granite", "mamba"),
    *("longt5", "pegasus", "m2m_100", "led", "hubert", "wavlm", "data2vec-audio"),
    *("swinv2", "convnextv2", "poolformer", "levit", "mobilevit", "efficientnet", "yolos", "dinov2_with_registers"),
)
"""More types of transformers."""


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
        remark: What stands in the way; the last remark, if there are several.
    """

    family: str
    model: str
    plan: str
    share: float
    folded: int
    unused: int | None
    head: int
    remark: str


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
        if found.unused is None and name.startswith(HF) and found.parameters <= MOST:
            found = doctor(make_model(name), costs=False)
    return Covered(
        family="transformers" if name.startswith(HF) else type(model).__module__.rpartition(".")[2],
        model=name,
        plan=found.plan,
        share=round(found.share, 3),
        folded=len(found.folded),
        unused=None if found.unused is None else len(found.unused),
        head=len(found.head),
        remark=found.remarks[-1] if found.remarks else "",
    )


def names() -> list[str]:
    """Return the names of all architectures of timm, and of the types of transformers above."""
    return [*timm.list_models(), *(f"hf:{kind}" for kind in (*COMMON, *OTHERS))]


def write(rows: Iterable[Covered], path: Path = COVERAGE) -> None:
    """Write the rows as a table of comma-separated values."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(Covered))
        for row in rows:
            writer.writerow("" if value is None else value for value in dataclasses.astuple(row))


def read(path: Path = COVERAGE) -> list[Covered]:
    """Return the rows of the file."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        Covered(
            row["family"],
            row["model"],
            row["plan"],
            float(row["share"]),
            int(row["folded"]),
            int(row["unused"]) if row["unused"] else None,
            int(row["head"]),
            row["remark"],
        )
        for row in rows
    ]


def by_family(rows: Sequence[Covered]) -> Table:
    """Return a table of the modules of timm."""
    families: dict[str, list[Covered]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(row)
    lines = []
    for family, own in sorted(families.items()):
        plans = [sum(row.plan == plan for row in own) for plan in PLANS]
        shares = [row.share for row in own if row.plan]
        span = f"{min(shares):.0%} to {max(shares):.0%}" if shares else ""
        unused = ", ".join(f"{row.model} ({row.unused})" for row in own if row.unused)
        lost = sum(row.unused is None for row in own if row.plan)
        lines.append((family, str(len(own)), *(str(number or "") for number in plans), span, unused, str(lost or "")))
    return Table(("module", "models", *PLANS.values(), "share", "unused", "not run"), tuple(lines))


def by_type(rows: Sequence[Covered]) -> Table:
    """Return a table of the types of transformers."""
    lines = tuple(
        (
            row.model,
            PLANS[row.plan],
            f"{row.share:.0%}" if row.plan else "",
            str(row.folded or ""),
            "not run" if row.unused is None and row.plan else str(row.unused or ""),
        )
        for row in rows
    )
    return Table(("type", "plan", "share", "weights", "unused"), lines)


def sections() -> Iterator[str]:
    """Yield the lines of the page on coverage."""
    rows = read()
    timm, hf = ([row for row in rows if row.model.startswith(HF) is kind] for kind in (False, True))
    for title, own, table in (("timm", timm, by_family(timm)), ("transformers", hf, by_type(hf))):
        known, shaped, none = (sum(row.plan == plan for row in own) for plan in PLANS)
        used = sum(row.unused == 0 for row in own)
        yield from (f"## {title}", "")
        yield f"{len(own):,} models: {known:,} with a plan of a known family, {shaped:,} by shape, {none:,} with"
        yield f"none. The forward passes of {used:,} use every folded parameter."
        yield from ("", str(table), "")


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

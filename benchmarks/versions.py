"""Training steps and forward passes of two commits, measured in turn on one machine.

python -m benchmarks.versions fc18aa1            # that commit, and the working tree: eight minutes on two idle cores
python -m benchmarks.versions --table            # the table from docs/results/versions.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from tensorfact import MatrixBatch, TensorTrain, adapt, plan_for
from tensorfact.common.table import Table
from tensorfact.lab.bundled import nano
from tensorfact.lab.measure import ForwardPass, TrainingStep, all_step_ratios, freeze_to_floor

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "docs" / "results" / "versions.json"
TURNS = 2
"""How often each version is measured; the medians count."""


def _vit(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=10, **options)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "ViT-B/16, 4 images": (_vit("vit_base_patch16_224"), (4, 3, 224, 224), 16, 3),
    "ViT-S/16, 16 images": (_vit("vit_small_patch16_224"), (16, 3, 224, 224), 16, 3),
    "ViT-S/16, 32 images of 96 pixels": (_vit("vit_small_patch16_224", img_size=96), (32, 3, 96, 96), 16, 5),
    "bundled ViT, 64 images": (lambda: nano(num_classes=10, pretrained=False), (64, 1, 28, 28), 8, 30),
}
"""Models with the shape of their images, the rank, and the number of rounds."""
TARGETS = {
    ("ViT-B/16, 4 images", "tensor-train"): 1.07,
    ("ViT-S/16, 16 images", "tensor-train"): 1.09,
    ("ViT-S/16, 32 images of 96 pixels", "tensor-train"): 1.12,
    ("bundled ViT, 64 images", "tensor-train"): 1.25,
}
"""Targets of the training steps; of a forward pass 1.05."""


def measured() -> Iterator[tuple[str, str, str, float]]:
    """Yield the model, the format, what was measured, and its time as a multiple of the frozen model's."""
    for label, (make, shape, rank, rounds) in MODELS.items():
        torch.manual_seed(0)
        x, y = torch.randn(shape), torch.zeros(shape[0], dtype=torch.long)
        bottom = make()
        freeze_to_floor(bottom, plan_for(bottom).resolve(bottom).parameters[0])
        models = {"tensor-train": make(), "matrix-batch": make()}
        for model, format in zip(models.values(), (TensorTrain(rank), MatrixBatch(rank)), strict=True):
            adapt(model, plan_for(model), format)
        steps = {name: TrainingStep(model, x, y) for name, model in models.items()}
        for name, ratios in all_step_ratios(TrainingStep(bottom, x, y), steps, rounds=rounds, warmup=1).items():
            yield label, name, "step", statistics.median(ratios)
        passes = {name: ForwardPass(model, x) for name, model in models.items()}
        for name, ratios in all_step_ratios(ForwardPass(bottom, x), passes, rounds=rounds + 2, warmup=1).items():
            yield label, name, "forward pass", statistics.median(ratios)


def table(found: list[list[Any]]) -> Table:
    """Return the table of both versions.

    Args:
        found: For each row the model, the format, what was measured, and both medians.
    """
    rows = []
    for model, format, what, before, after in found:
        most = TARGETS.get((model, format)) if what == "step" else 1.05
        rows.append((model, format, what, f"{before:.2f}", f"{after:.2f}", "" if most is None else f"{most:.2f}"))
    return Table(("model", "format", "what", "before", "after", "target"), tuple(rows))


def compared(commit: str) -> list[list[Any]]:
    """Measure a commit and the working tree in turn, each in processes of its own.

    Args:
        commit: The commit.
    """
    values: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "worktree", "add", "--detach", folder, commit], cwd=ROOT, check=True)
        try:
            for _ in range(TURNS):
                for version, path in (("before", Path(folder)), ("after", ROOT)):
                    for *key, value in _measured_with(path):
                        values[tuple(key)][version].append(value)
                    print(f"measured: {version}", file=sys.stderr, flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", folder], cwd=ROOT, check=True)
    return [[*key, *(statistics.median(of[v]) for v in ("before", "after"))] for key, of in values.items()]


def _measured_with(package: Path) -> list[list[Any]]:
    """Return what a process of its own measures with the package of a folder."""
    command = [sys.executable, str(Path(__file__)), "--measure"]  # as a file: the package comes from PYTHONPATH alone
    environment = {**os.environ, "PYTHONPATH": str(package)}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: list[list[Any]] = json.loads(output.stdout)
    return found


def main() -> None:
    """Measure, or print the table of what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.versions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit", nargs="?", help="the commit to compare with")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--measure", action="store_true", help="measure the package that is imported, and print JSON")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(list(measured())))
        return
    if not options.table:
        if options.commit is None:
            parser.error("pass a commit, as in `python -m benchmarks.versions HEAD~1`")
        lines = ",\n".join(json.dumps(row) for row in compared(options.commit))
        RUNS.write_text(f"[\n{lines}\n]\n")
    print(table(json.loads(RUNS.read_text())))


if __name__ == "__main__":
    main()

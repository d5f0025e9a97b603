"""What the documentation generates when it is built: the model families, and the tables of the benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are no part of the installed package

import tensorfact as tf
from benchmarks.result import RESULTS, read, table
from tensorfact.architectures import FAMILIES, Example
from tensorfact.models import model_shapes
from tensorfact.table import Table

RANK = 16


def on_page_markdown(markdown: str, **context: Any) -> str:
    """Put generated text where a page asks for it; mkdocs calls this for every page."""
    for marker, generate in {"<!-- families -->": families, "<!-- benchmarks -->": benchmarks}.items():
        if marker in markdown:
            markdown = markdown.replace(marker, "\n".join(generate()))
    return markdown


def benchmarks() -> Iterator[str]:
    """Write what was measured on every machine."""
    for device in ("cpu", "cuda"):
        path = RESULTS / f"{device}.json"
        yield from (f"## On a {'CPU' if device == 'cpu' else 'GPU'}", "")
        if not path.exists():
            yield f"Not measured yet: no such machine was at hand. `make bench-{device}` measures and writes it."
            continue
        machine, found = read(path)
        yield from ("; ".join(f"{key}: {value}" for key, value in machine.items()) + ".", "")
        for name, rows in found.items():
            yield from (f"### {name.capitalize()}", "", f"`python -m benchmarks {name} --device {device}`", "")
            yield from (*grid(table(rows)), "")


def families() -> Iterator[str]:
    """Write every family: its tensors, what it leaves out, and the count at rank 16."""
    resolved = {example.model: resolve(example) for family in FAMILIES.values() for example in family.examples}
    rows = []
    for family in FAMILIES.values():
        for example in family.examples:
            plan = resolved[example.model]
            count = plan.num_parameters(plan.fitted(tf.TensorTrain(RANK)))
            link = f"[{family.name}](#{family.name})"
            rows.append((link, f"`{example.model}`", str(len(plan.tensors)), str(len(plan.parameters)), f"{count:,}"))
    yield from grid(Table(("family", "member", "tensors", "weights in them", f"TT r={RANK}"), tuple(rows)))
    for family in FAMILIES.values():
        yield from ("", f"## {family.name}", "")
        for example in family.examples:
            plan = resolved[example.model]
            formats = plan.fitted(tf.TensorTrain(RANK))
            counts = {name: format.num_parameters(plan[name].modes) for name, format in formats.items()}
            yield from (f"**`{example.model}`**", "")
            details = [
                (
                    f"`{tensor.name}`",
                    ", ".join(f"{mode.name} {mode.size}" for mode in tensor.modes),
                    str(len(tensor.views)),
                    f"{counts[tensor.name]:,}",
                )
                for tensor in plan.tensors
            ]
            yield from grid(Table(("tensor", "modes", "weights", f"TT r={RANK}"), tuple(details)))
            left = [(f"`{n}`" if " " not in n else n, shapes, why) for n, shapes, why in plan.left_out_table().rows]
            yield from ("", *grid(Table(("left out", "shapes", "why"), tuple(left))), "")


def resolve(example: Example) -> tf.ResolvedPlan:
    """Return the plan of a published member, resolved on its shapes."""
    model = model_shapes(example.model)
    return tf.plan_for(model).resolve(model)


def grid(table: Table) -> list[str]:
    """Return a table's lines."""
    return str(table).splitlines()

"""Generate parts of the documentation: the model families, the gallery and the tables of the benchmarks."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are not part of the installed package

from benchmarks import coverage
from benchmarks.result import RESULTS, read, table
from tensorfact import TensorTrain, plan_for, recipes
from tensorfact.common.table import Table
from tensorfact.drawing import draw
from tensorfact.lab.models import model_shapes
from tensorfact.plan import ResolvedPlan
from tensorfact.plan.families import FAMILIES, Example

RANK = 16


def on_page_markdown(markdown: str, **context: Any) -> str:
    """Replace the markers in a page by generated text; mkdocs calls this for every page."""
    sections = {
        "<!-- families -->": families,
        "<!-- coverage -->": coverage.sections,
        "<!-- benchmarks -->": benchmarks,
        "<!-- gallery -->": gallery,
    }
    for marker, generate in sections.items():
        if marker in markdown:
            markdown = markdown.replace(marker, "\n".join(generate()))
    return markdown


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures of the gallery; mkdocs calls this once."""
    for name, picture in pictures().items():
        files.append(File.generated(config, f"images/recipes/{name}.svg", content=picture))
    return files


@functools.cache
def published() -> dict[str, tuple[recipes.Recipe, ResolvedPlan]]:
    """Return every recipe and its plan on ViT-B/16."""
    model = model_shapes("vit_base_patch16_224")
    made = {name: recipe(model) for name, recipe in recipes.RECIPES.items()}
    return {name: (recipe, recipe.plan.resolve(model)) for name, recipe in made.items()}


@functools.cache
def pictures() -> dict[str, str]:
    """Draw the tensors of every recipe that have more than one core."""
    found = {}
    for name, (recipe, plan) in published().items():
        for tensor, format in plan.formats(recipe.format).items():
            if len(format.network(plan[tensor].modes).cores) > 1:
                found[f"{name}-{tensor}"] = draw(format, plan[tensor].modes)
    return found


def gallery() -> Iterator[str]:
    """Write every recipe: its picture, equation, count, code and source."""
    rows = []
    for name, (recipe, plan) in published().items():
        count, title = f"{plan.num_parameters(recipe.format):,}", title_of(name)
        shapes = "; ".join(" x ".join(map(str, tensor.shape)) for tensor in plan.tensors if len(tensor.shape) > 1)
        rows.append((f"[{title}](#{name})", f"`recipes.{name}`", shapes, count))
    yield from grid(Table(("method", "recipe", "tensors on ViT-B/16", "parameters"), tuple(rows)))
    for name, (recipe, plan) in published().items():
        text = inspect.cleandoc(recipes.RECIPES[name].__doc__ or "")
        about, source = text.partition("\n\nArgs:")[0], text.partition("Source: ")[2].partition("\n\n")[0]
        yield from ("", f"## {title_of(name)} {{ #{name} }}", "", sentence(about.partition(": ")[2]), "")
        for tensor, format in plan.formats(recipe.format).items():
            network = format.network(plan[tensor].modes)
            if f"{name}-{tensor}" in pictures():
                yield from (f"![{network}](images/recipes/{name}-{tensor}.svg){{ .network }}", "")
            yield from (f"`{network}`", "")
        yield from (f"{plan.num_parameters(recipe.format):,} parameters on ViT-B/16. Source: {source}", "")
        body = inspect.getsource(recipes.RECIPES[name])
        yield from (
            '??? quote "The recipe"',
            "",
            "    ```python",
            *(f"    {line}" for line in code_of(body)),
            "    ```",
        )


def sentence(text: str) -> str:
    """Return a text that begins with a capital letter."""
    return text[:1].upper() + text[1:]


def title_of(name: str) -> str:
    """Return the name of a recipe's method."""
    return (recipes.RECIPES[name].__doc__ or "").partition(":")[0]


def code_of(source: str) -> list[str]:
    """Return the lines of a function without its docstring."""
    head, _, body = source.split('"""')
    return [*head.rstrip().splitlines(), *body.strip("\n").splitlines()]


def benchmarks() -> Iterator[str]:
    """Write the tables measured on each device."""
    for device in ("cpu", "cuda"):
        path = RESULTS / f"{device}.json"
        yield from (f"## On a {'CPU' if device == 'cpu' else 'GPU'}", "")
        if not path.exists():
            yield f"Not measured yet. Run `make bench-{device}` to measure it."
            continue
        for name, (machine, rows) in read(path).items():
            measured = "; ".join(f"{key}: {value}" for key, value in machine.items())
            yield from (f"### {name.capitalize()}", "", f"`python -m benchmarks {name} --device {device}`", "")
            yield from (f"{measured}.", "", *grid(table(rows)), "")


def families() -> Iterator[str]:
    """Write every family: its tensors, what it leaves out, and the count at rank 16."""
    resolved = {example.model: resolve(example) for family in FAMILIES.values() for example in family.examples}
    rows = []
    for family in FAMILIES.values():
        for example in family.examples:
            plan = resolved[example.model]
            count = plan.num_parameters(plan.fitted(TensorTrain(RANK)))
            link = f"[{family.name}](#{family.name})"
            rows.append((link, f"`{example.model}`", str(len(plan.tensors)), str(len(plan.parameters)), f"{count:,}"))
    yield from grid(Table(("family", "member", "tensors", "weights in them", f"TT r={RANK}"), tuple(rows)))
    for family in FAMILIES.values():
        yield from ("", f"## {family.name}", "")
        for example in family.examples:
            plan = resolved[example.model]
            formats = plan.fitted(TensorTrain(RANK))
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


def resolve(example: Example) -> ResolvedPlan:
    """Return the plan of a published member, resolved on its shapes."""
    model = model_shapes(example.model)
    return plan_for(model).resolve(model)


def grid(table: Table) -> list[str]:
    """Return a table's lines."""
    return str(table).splitlines()

"""The model card of an adapter: a README for people, with the tensors, how to load it, and its base model's license."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from ..common.table import Table, counted
from ..drawing import draw
from ..errors import printable
from ..formats import format_label
from ..model.origin import ModelOrigin
from .description import AdapterDescription
from .located import PICTURE

_MOST = 30
"""The most rows of a table, and the most classes."""


def picture(description: AdapterDescription) -> str:
    """Return a picture of the network of an adapter's first tensor, as SVG.

    Args:
        description: The adapter.
    """
    name = next(iter(description.formats))
    return draw(
        description.network(name), description.modes[name], f"{name}: {format_label(description.formats[name])}"
    )


def is_card(text: str) -> bool:
    r"""Return whether a text begins with the header of a model card of tensorfact; the text below may be edited.

    Args:
        text: The text of a README.

    Examples:
        >>> is_card('---\nlibrary_name: "tensorfact"\n---\n\nmy own words'), is_card("# My project")
        (True, False)
    """
    lines = [line.strip() for line in text.splitlines()]
    end = lines.index("---", 1) if lines[:1] == ["---"] and "---" in lines[1:] else 0
    return any(re.fullmatch(r"library_name:\s*([\"']?)tensorfact\1", line) for line in lines[:end])


def card(
    description: AdapterDescription,
    origin: ModelOrigin,
    classes: Sequence[str],
    metrics: Mapping[str, float],
    name: str,
) -> str:
    """Return the text of a model card, in Markdown with a header for the Hub.

    Args:
        description: The adapter.
        origin: Where the base model comes from.
        classes: The names of the classes.
        metrics: Results by name.
        name: What to call the adapter where it is loaded.
    """
    counts = {name: each.num_parameters(description.modes[name]) for name, each in description.formats.items()}
    base = f"`{_plain(origin.name)}`" if origin.name else "its base model"
    made = "" if origin.can_be_made else ", model=model"
    rows = [
        (name, " x ".join(str(mode.size) for mode in description.modes[name]), format_label(each), f"{counts[name]:,}")
        for name, each in description.formats.items()
    ]
    parts = [
        _front(origin, classes),
        f"# Adapter of {base}",
        f"A tensorfact adapter: {sum(counts.values()):,} trained numbers in the factors of "
        f"{counted(len(counts), 'tensor')}, which hold the weights of {base}.",
        "## Load it",
        f"```python\nimport tensorfact\n\nmodel, transform, classes = tensorfact.load({name!r}{made})\n```",
        "## Tensors",
        _shortened(Table(("tensor", "shape", "format", "parameters"), tuple(rows))),
        f"![The network of tensor {_plain(rows[0][0])}]({PICTURE})",
    ]
    if metrics:
        parts += [
            "## Results",
            str(Table(("metric", "value"), tuple((_plain(n), f"{v:.4g}") for n, v in metrics.items()))),
        ]
    if classes:
        shown = ", ".join(f"`{_plain(each)}`" for each in classes[:_MOST])
        parts += ["## Classes", shown + (f", and {len(classes) - _MOST} more" if len(classes) > _MOST else "")]
    parts += ["## Base model", _base(origin)]
    return "\n\n".join(parts) + "\n"


def _front(origin: ModelOrigin, classes: Sequence[str]) -> str:
    """Return the header that the Hub reads; JSON strings are YAML too."""
    entries = {
        "library_name": "tensorfact",
        "base_model": "" if _is_random(origin) else origin.repository,
        "license": "" if _is_random(origin) else origin.license,
        "pipeline_tag": "image-classification" if classes else "",
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in entries.items() if value]
    return "\n".join(["---", *lines, "tags: [tensorfact, adapter]", "---"])


def _is_random(origin: ModelOrigin) -> bool:
    """Return whether the base weights were drawn from a seed, so that they are not those of the repository."""
    return origin.seed is not None and not origin.pretrained and origin.checkpoint is None


def _base(origin: ModelOrigin) -> str:
    if not origin.name:
        return "The base model is not known by name: pass it to `tensorfact.load(..., model=model)`."
    weights = "its pretrained weights" if origin.pretrained else "weights of unknown origin"
    if origin.checkpoint is not None:
        weights = f"the weights in `{_plain(PurePath(origin.checkpoint).name)}`"
    elif _is_random(origin):
        weights = f"random weights of seed {origin.seed}"
    options = ", ".join(f"{key}={value!r}" for key, value in origin.options.items())
    return (
        f"`{_plain(origin.name)}` with {weights}"
        + (f", created with `{_plain(options)}`" if options else "")
        + ("." if _is_random(origin) else f". License of the weights: {_plain(origin.license) or 'not stated'}.")
    )


def _shortened(table: Table) -> str:
    left = len(table.rows) - _MOST
    shown = Table(table.headers, tuple(tuple(map(_plain, row)) for row in table.rows[:_MOST]))
    return f"{shown}\n\nand {left} more tensors" if left > 0 else str(shown)


def _plain(text: str) -> str:
    """Return a text that Markdown and HTML show as it is, on one line."""
    shown = printable(text).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'")
    return shown.replace("<", "&lt;").replace(">", "&gt;")

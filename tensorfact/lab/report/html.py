"""HTML page of a sweep: one file that contains its data, style and script and makes no network requests."""

from __future__ import annotations

import dataclasses
import html
import importlib.resources
import json
import math
import statistics
from collections.abc import Mapping, Sequence

from ...common.aliases import JsonObject
from ..plots.style import COLOURS, COLOURS_ON_DARK, LINES, MARKERS
from ..sweep import Run, task_group
from .names import task_label
from .summary import CellSummary, Mean, PartSummary, RowSummary, Summary
from .tables import Column, columns_of


def page(summary: Summary) -> str:
    """Return the HTML page of a sweep; equal results give equal text.

    Args:
        summary: Result of `summarize`.
    """
    assets = importlib.resources.files(__package__) / "assets"
    style, charts, labels, script, text = (
        (assets / name).read_text("utf-8") for name in ("page.css", "charts.js", "labels.js", "page.js", "page.html")
    )
    parts = {
        "TITLE": html.escape(summary.results.sweep.name),
        "STYLE": _colours() + style,
        "SCRIPT": charts + labels + script,
        "DATA": in_script(page_data(summary)),
    }
    # one pass, so that a placeholder inside inserted text is not replaced
    first, *rest = text.split("@@")
    return first + "".join(parts[piece] if at % 2 == 0 else piece for at, piece in enumerate(rest))


def _colours() -> str:
    """Return the colours of the pictures as CSS: a class for each, with its colour on a light and a dark page."""
    light, dark = (
        "".join(f".c{at}{{--c:{colour}}}" for at, colour in enumerate(colours))
        for colours in (COLOURS, COLOURS_ON_DARK)
    )
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{{dark}}}\n"


def in_script(data: object) -> str:
    """Return JSON that is safe inside a `<script>` element.

    Args:
        data: JSON data.

    Examples:
        >>> "<" in in_script({"label": "</script>"})
        False
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page_data(summary: Summary) -> JsonObject:
    """Return the JSON data that the script of the page draws."""
    results = summary.results
    sweep = results.sweep
    done, failed, unfinished = (len(summary.cells(state)) for state in ("done", "failed", "unfinished"))
    in_order = [id for cell in results.cells for id in (*cell.candidates, *cell.runs) if id in results.runs]
    ids = {id: at for at, id in enumerate(dict.fromkeys([*in_order, *sorted(results.runs)]))}
    runs = [results.runs[id] for id in ids]
    shared, own = _texts(runs)
    return {
        "name": sweep.name,
        "look": {"colours": len(COLOURS), "markers": MARKERS, "lines": LINES},
        "note": summary.note,
        "protocol": summary.protocol,
        "seeds": list(sweep.seeds),
        "settings": dataclasses.asdict(sweep.settings),
        "cells": {"done": done, "failed": failed, "unfinished": unfinished},
        "machines": sorted({run.measured.machine for run in runs if run.measured}),
        "seconds": sum(run.measured.seconds for run in runs if run.measured),
        "parts": [_part(part, ids) for part in summary.parts],
        "shared": shared,
        "runs": [_run(id, run, texts) for id, run, texts in zip(ids, runs, own, strict=True)],
    }


def _part(part: PartSummary, ids: Mapping[str, int]) -> JsonObject:
    columns = columns_of(part)
    best = [column.best(part.rows) for column in columns]
    return {
        "name": part.part.name,
        "title": part.part.title,
        "model": part.part.model,
        "weights": part.part.checkpoint or ("pretrained" if part.part.pretrained else ""),
        "groups": list(part.groups),
        "tasks": [{"name": task, "label": task_label(task), "group": task_group(task)} for task in part.tasks],
        "columns": [{"heading": each.heading, "group": each.group, "task": each.task} for each in columns],
        "rows": [_row(row, part, ids, list(zip(columns, best, strict=True))) for row in part.rows],
    }


def _row(
    row: RowSummary, part: PartSummary, ids: Mapping[str, int], columns: Sequence[tuple[Column, str]]
) -> JsonObject:
    return {
        "table": [[each.text(row), _short(each.value(row)), each.is_best(row, best)] for each, best in columns],
        "label": row.row.label,
        "style": row.style,
        "kind": row.kind,
        "accuracy": _mean(row.accuracy),
        "parameters": row.parameters,
        "published": [row.row.parameters, row.row.accuracy],
        "groups": [_mean(row.groups[group]) for group in part.groups],
        "cells": [_cell(row, cell, ids) for cell in row.cells],
        "ranks": [[point.rank, _short(point.accuracy), point.parameters] for point in row.ranks],
        "step": row.step_seconds,
        "peak": row.peak_bytes,
        "seconds": row.seconds,
    }


def _cell(row: RowSummary, cell: CellSummary, ids: Mapping[str, int]) -> JsonObject:
    losses = [_curve(run, "train_loss") for run in cell.runs]
    return {
        "state": cell.state,
        "why": cell.why,
        "accuracy": _mean(cell.accuracy),
        "parameters": cell.parameters,
        "methods": list(cell.methods),
        "scales": list(cell.scales),
        "rates": list(cell.rates) if row.row.rates else [],
        "runs": [ids[run.spec.id] for run in cell.runs if run.spec.id in ids],
        "loss": _means(losses),
        "selected": _selected(cell),
    }


def _selected(cell: CellSummary) -> list[float | None]:
    """Return the validation curve of the chosen candidate, or else the mean curve of the reported runs."""
    runs = [cell.chosen] if cell.chosen else list(cell.runs)
    return _means([_curve(run, "val_accuracy") for run in runs])


def _curve(run: Run, name: str) -> list[float | None]:
    return [epoch.get(name) for epoch in run.outcome.epochs]


def _means(curves: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return the mean of curves by epoch; None for epochs where a curve has no finite value."""
    means: list[float | None] = []
    for values in zip(*curves, strict=False):
        found = [value for value in values if value is not None and math.isfinite(value)]
        means.append(_short(statistics.fmean(found)) if len(found) == len(values) else None)
    return means if any(value is not None for value in means) else []


def _run(id: str, run: Run, spec: Mapping[str, str]) -> JsonObject:
    outcome = run.outcome
    return {
        "id": id,
        "is": str(run.spec),
        "spec": spec,
        "parameters": outcome.parameters,
        "val": _short(outcome.val_accuracy),
        "test": None if outcome.failure else _short(outcome.test_accuracy),
        "epoch": outcome.best_epoch,
        "failure": outcome.failure,
    }


def _texts(runs: Sequence[Run]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return the fields of all specs as JSON text: first the shared fields, then the other fields of each spec.

    The fields stay text, since JavaScript would print 1.0 as 1, which changes the id of the spec.
    """
    texts = [{name: json.dumps(value, sort_keys=True) for name, value in run.spec.to_dict().items()} for run in runs]
    shared = {name: text for name, text in texts[0].items() if all(e[name] == text for e in texts)} if texts else {}
    return shared, [{name: text for name, text in each.items() if name not in shared} for each in texts]


def _mean(mean: Mean | None) -> list[float | None] | None:
    return None if mean is None else [_short(mean.mean), _short(mean.spread)]


def _short(value: float | None) -> float | None:
    """Round to six significant digits, to keep the page small; None for NaN and infinity."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")

"""Change a sweep: select parts and rows, replace models, tasks, methods and settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ...errors import SweepError, nearest
from ..methods import takes_scale
from .definition import Sweep, SweepPart, SweepRow

T = TypeVar("T")


def narrowed(
    sweep: Sweep,
    *,
    parts: Sequence[str] = (),
    rows: Sequence[str] = (),
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    scales: Sequence[float | str] = (),
) -> Sweep:
    """Return a sweep with selected parts and rows, or with other tasks, methods or scales.

    An empty argument leaves that part of the sweep unchanged.

    Args:
        sweep: The sweep to start from; it is not changed.
        parts: Names of the parts to keep.
        rows: Labels of the rows to keep.
        tasks: Tasks that replace those of every part, and name the sweep. Published accuracies are dropped.
        methods: Methods that replace the rows, one row each.
        scales: Candidate scales, for rows that choose a scale, and for those of `methods` that have one.

    Raises:
        SweepError: Unknown part or row, or no row is left.
    """
    kept = _chosen("part", parts, {part.name: part for part in sweep.parts})
    labels = {row.label: row for part in kept for row in part.rows}
    wanted = {row.label for row in _chosen("row", rows, labels)}

    def rows_of(part: SweepPart) -> tuple[SweepRow, ...]:
        own = tuple(dict.fromkeys(each if isinstance(each, str) else float(each) for each in scales))
        if methods:
            return tuple(SweepRow(text, (text,), own if own and takes_scale(text) else (None,)) for text in methods)
        found = [row for row in part.rows if row.label in wanted]
        if tasks:  # the published accuracy is of the tasks before
            found = [dataclasses.replace(row, accuracy=None) for row in found]
        return tuple(dataclasses.replace(row, scales=own) if own and row.scales != (None,) else row for row in found)

    changed = (dataclasses.replace(p, rows=rows_of(p), tasks=tuple(tasks) or p.tasks) for p in kept)
    name = ", ".join(tasks) or sweep.name
    return dataclasses.replace(sweep, name=name, parts=tuple(part for part in changed if part.rows))


def on_models(sweep: Sweep, models: Iterable[str], **changes: object) -> Sweep:
    """Return a sweep on other models, without the published numbers of the parts that change.

    Args:
        sweep: The sweep to start from; it is not changed.
        models: `NAME` for all parts, or `PART=NAME` for one part.
        changes: Other fields of `SweepPart` to set in every part: `pretrained`, `checkpoint`.

    Raises:
        SweepError: Unknown part.
    """
    every: dict[str, str] = {}
    by_part: dict[str, str] = {}
    names = [part.name for part in sweep.parts]
    for text in models:
        name, equals, model = text.partition("=")
        if not equals or "(" in name:  # the equals sign belongs to an option of the model
            every = dict.fromkeys(names, text)
        elif name in names:
            by_part[name] = model
        else:
            raise SweepError(
                f"model {text!r}: unknown part",
                expected=f"one of {', '.join(names)}",
                got=name,
                fix=f"{names[0]}={model}",
            )
    chosen = every | by_part

    def changed(part: SweepPart) -> SweepPart:
        part = dataclasses.replace(part, **changes)  # type: ignore[arg-type]  # fields of several types
        model = chosen.get(part.name, part.model)
        if model == part.model:
            return part
        rows = tuple(dataclasses.replace(row, parameters=None, accuracy=None) for row in part.rows)
        return dataclasses.replace(part, model=model, title=f"{part.name} on {model}", rows=rows)

    return dataclasses.replace(sweep, parts=tuple(map(changed, sweep.parts)))


def trained_for(sweep: Sweep, *, seeds: int | None = None, **settings: Any) -> Sweep:
    """Return a sweep with other training settings or another number of seeds.

    Args:
        sweep: The sweep to start from; it is not changed.
        seeds: Number of final runs per row and task, with the seeds 0, 1, ...; None keeps the seeds.
        settings: Fields of `Settings` to change; None keeps a field. With new `epochs`, `warmup_epochs` becomes a tenth
            of them unless it is given. A new `lr` is that of every row.
    """
    changes = {name: value for name, value in settings.items() if value is not None}
    if "epochs" in changes:
        changes = {"warmup_epochs": changes["epochs"] / 10, **changes}
    sweep = dataclasses.replace(sweep, settings=dataclasses.replace(sweep.settings, **changes))
    if "lr" in changes:
        sweep = dataclasses.replace(sweep, parts=tuple(map(_at_one_rate, sweep.parts)))
    if seeds is None:
        return sweep
    parts = tuple(dataclasses.replace(part, seeds=part.seeds[:seeds]) for part in sweep.parts)
    return dataclasses.replace(sweep, parts=parts, seeds=tuple(range(seeds)))


def known(what: str, name: str, options: Mapping[str, T]) -> T:
    """Look up a name in a mapping.

    Args:
        what: Kind of thing that is looked up, for the error message.
        name: The name to look up.
        options: Known things by name.

    Raises:
        SweepError: The name is unknown.
    """
    if name not in options:
        raise SweepError(
            f"unknown {what} {name!r}",
            expected=f"one of {', '.join(options)}",
            got=f"{name!r}{nearest(name, options)}",
        )
    return options[name]


def _at_one_rate(part: SweepPart) -> SweepPart:
    """Return a part whose rows take the learning rate of the settings."""
    return dataclasses.replace(part, rows=tuple(dataclasses.replace(row, rates=()) for row in part.rows))


def _chosen(what: str, names: Sequence[str], options: Mapping[str, T]) -> list[T]:
    return [known(what, name, options) for name in names] if names else list(options.values())

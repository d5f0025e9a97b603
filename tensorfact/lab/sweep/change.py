"""Narrow a sweep, and put one's own models, tasks and methods into it."""

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
    scales: Sequence[float] = (),
) -> Sweep:
    """Return a sweep of some of its parts and rows, or on other tasks; what is not given stays.

    Args:
        sweep: The sweep.
        parts: Parts to keep.
        rows: Rows to keep, by their labels.
        tasks: The tasks, in place of those it has.
        methods: Rows of one method each, in place of those it has.
        scales: Scales to choose among, for rows that choose one, and for those of `methods` that have one.

    Raises:
        SweepError: There is no such part or row, or nothing is left.
    """
    kept = _chosen("part", parts, {part.name: part for part in sweep.parts})
    labels = {row.label: row for part in kept for row in part.rows}
    wanted = {row.label for row in _chosen("row", rows, labels)}

    def rows_of(part: SweepPart) -> tuple[SweepRow, ...]:
        own = tuple(dict.fromkeys(map(float, scales)))
        if methods:
            return tuple(SweepRow(text, (text,), own if own and takes_scale(text) else (None,)) for text in methods)
        found = [row for row in part.rows if row.label in wanted]
        if tasks:  # what was published is of others
            found = [dataclasses.replace(row, accuracy=None) for row in found]
        return tuple(dataclasses.replace(row, scales=own) if own and row.scales != (None,) else row for row in found)

    changed = (dataclasses.replace(p, rows=rows_of(p), tasks=tuple(tasks) or p.tasks) for p in kept)
    return dataclasses.replace(sweep, parts=tuple(part for part in changed if part.rows))


def on_models(sweep: Sweep, models: Iterable[str], **changes: object) -> Sweep:
    """Return a sweep on other models.

    Args:
        sweep: The sweep.
        models: `NAME` for all parts, or `PART=NAME` for one.
        changes: Other fields of every part to change: `pretrained`, `checkpoint`.

    Raises:
        SweepError: There is no such part.
    """
    every: dict[str, str] = {}
    by_part: dict[str, str] = {}
    names = [part.name for part in sweep.parts]
    for text in models:
        name, equals, model = text.partition("=")
        if not equals or "(" in name:  # the equals sign of an option
            every = dict.fromkeys(names, text)
        elif name in names:
            by_part[name] = model
        else:
            raise SweepError(f"model {text!r}", expected=f"NAME, or PART=NAME with a part of {names}", got=name)
    chosen = every | by_part

    def changed(part: SweepPart) -> SweepPart:
        part = dataclasses.replace(part, **changes)  # type: ignore[arg-type]  # of several types
        model = chosen.get(part.name, part.model)
        if model == part.model:
            return part
        rows = tuple(dataclasses.replace(row, parameters=None, accuracy=None) for row in part.rows)
        return dataclasses.replace(part, model=model, title=f"{part.name} on {model}", rows=rows)

    return dataclasses.replace(sweep, parts=tuple(map(changed, sweep.parts)))


def trained_for(sweep: Sweep, *, seeds: int | None = None, **settings: Any) -> Sweep:
    """Return a sweep that trains otherwise, or with more or fewer seeds.

    Args:
        sweep: The sweep.
        seeds: How many final runs there are of a row and task; as many as there are by default.
        settings: Fields of `Settings` to change, None for as it is. With other `epochs`, a tenth of them warm up.
    """
    changes = {name: value for name, value in settings.items() if value is not None}
    if "epochs" in changes:
        changes = {"warmup_epochs": changes["epochs"] / 10, **changes}
    sweep = dataclasses.replace(sweep, settings=dataclasses.replace(sweep.settings, **changes))
    if seeds is None:
        return sweep
    parts = tuple(dataclasses.replace(part, seeds=part.seeds[:seeds]) for part in sweep.parts)
    return dataclasses.replace(sweep, parts=parts, seeds=tuple(range(seeds)))


def known(what: str, name: str, options: Mapping[str, T]) -> T:
    """Return what has a name.

    Args:
        what: What it is, for the message.
        name: The name.
        options: What there is.

    Raises:
        SweepError: Nothing has it.
    """
    if name not in options:
        raise SweepError(
            f"unknown {what} {name!r}", expected=f"one of {', '.join(options)}", got=f"{name!r}{nearest(name, options)}"
        )
    return options[name]


def _chosen(what: str, names: Sequence[str], options: Mapping[str, T]) -> list[T]:
    return [known(what, name, options) for name in names] if names else list(options.values())

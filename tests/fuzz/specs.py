"""Texts and data that are no files: plans, axis strings, formats, methods, specs of runs, definitions of sweeps."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from torch import nn

from tensorfact import Group, Rule, TensorizationPlan, adapt, plan_for
from tensorfact.formats import Format, format_from_dict, format_label, format_to_dict, parse_format
from tensorfact.lab import nano
from tensorfact.lab.data import open_task
from tensorfact.lab.methods import method_of, num_parameters
from tensorfact.lab.models import make_model
from tensorfact.lab.sweep import RunSpec, Sweep
from tensorfact.network import Dropout, Mode
from tests.fuzz.adapters import FORMATS
from tests.fuzz.case import Case
from tests.fuzz.sweeps import SWEEP
from tests.fuzz.values import DIGITS, dumped, garbled_text, mutated, odd
from tests.helpers import Tiny
from tests.storage.saved import PLAN

MODES = (Mode("layer", 2, "stack"), Mode("role", 3, "stack"), Mode("in", 4, "in"), Mode("out", 6, "out"))
ALPHABET = "ab01(){}[]=:,.*-_ '\"\\\0\n\u00b2\u0660é+~^@#e9"
PATTERNS = (
    "(layer role) in out",
    "(role out) in",
    "out in",
    "in (head dim) layer role",
    "1 in out",
    "blocks.{layer}.qkv.weight",
)
TEXTS = (
    *(
        "tt:rank=16",
        "tucker:rank=(4,8,8)",
        "each:format=tt(rank=5)",
        "nested:format=tt(rank=2),cores={'U': cp(rank=1)}",
    ),
    *("cp:rank=0.5,weights=True", "matrix-batch:rank=full", "monarch:rank=2,blocks=2", "tt:rank=2,order=(0,1)"),
    *("started:format=matrix-batch(rank=2),starts={'A':'normal'}", "diagonals:format=tt(rank=2)", "gates:rank=1"),
)
METHODS = (
    "lora:rank=8",
    "fact-tt:rank=4",
    "linear",
    "bitfit",
    "adapter:hidden=8",
    "vera",
    "vpt-deep:length=5",
    "noah:budget=361000",
    "peft-lora:r=8,lora_alpha=16",
)
MODELS = ("nano", "torch:Linear", "torch:TransformerEncoderLayer(d_model=16,nhead=2)", "test_vit(depth=2)")
TASKS = ("vtab:svhn", "few-shot:pets(shots=1,seed=0)", "folder:/nowhere", "sprites:orientation", "digits(x=1)")

Maker = Callable[[Random], Case]


@functools.cache
def tiny() -> nn.Module:
    """Return the model that plans are resolved on."""
    return Tiny().eval()


@functools.cache
def plans() -> tuple[str, ...]:
    """Return plans as JSON."""
    return (PLAN.to_json(), PLAN.split("in", {"a": 2, "b": None}).to_json(), plan_for(nano()).to_json())


def spec_case(rng: Random, folder: Path) -> Case:
    """Read a damaged text."""
    return rng.choice(MAKERS)(rng)


def _plan(rng: Random) -> Case:
    text = dumped(mutated(rng, json.loads(rng.choice(plans())), rng.choice((1, 1, 2, 3))))
    if rng.random() < 0.1:
        text = garbled_text(rng, text, ALPHABET)
    host = copy.deepcopy(tiny())
    return Case(text, lambda: TensorizationPlan.from_json(text).resolve(host), None, (host,), str)


def _notation(rng: Random) -> Case:
    modes, pattern, param = (garbled_text(rng, rng.choice(PATTERNS), f"{ALPHABET} in out layer") for _ in range(3))
    given: dict[str, Any] = {"modes": rng.choice((modes, PATTERNS[0])), "pattern": rng.choice((pattern, PATTERNS[1]))}
    given["param"] = rng.choice((param, PATTERNS[5]))
    options = {rng.choice(("partition", "tied", "axis_sizes")): odd(rng)} if rng.random() < 0.3 else {}
    role = rng.choice((["q", "k", "v"], ["q", None, "v"], odd(rng), [odd(rng), "v"]))
    host = copy.deepcopy(tiny())

    def act() -> object:
        rule = Rule(given["param"], given["pattern"], role=role)
        return TensorizationPlan([Group("g", given["modes"], [rule], **options)]).resolve(host)  # type: ignore[arg-type]

    return Case(f"{given} role={role!r} {options}", act, None, (host,), str)


def _used_format(format: Format) -> None:
    format_label(format)
    assert format_from_dict(json.loads(json.dumps(format_to_dict(format)))) == format


def _format(rng: Random) -> Case:
    text = garbled_text(rng, rng.choice(TEXTS), f"{ALPHABET} tt cp rank full format")
    if rng.random() < 0.3:
        value = rng.choice((repr(odd(rng)), f"({DIGITS})", "9" * 5000, "-" * 3000))
        text = f"{rng.choice(TEXTS).partition('=')[0]}={value}"

    def act() -> Format:
        found = parse_format(text)
        found.network(MODES)
        return found

    return Case(text, act, None, (), _used_format)


def _format_data(rng: Random) -> Case:
    data = mutated(rng, format_to_dict(rng.choice(sorted(FORMATS.values(), key=str))[0]), rng.choice((1, 2)))
    host = copy.deepcopy(tiny())

    def act() -> object:
        return adapt(host, PLAN, format_from_dict(data), check=False)

    return Case(repr(data), act, None, (host,))


def _sweep(rng: Random) -> Case:
    text = dumped(mutated(rng, json.loads(SWEEP.to_json()), rng.choice((1, 1, 2))))
    return Case(text, lambda: Sweep.from_json(text), None, (), lambda found: Sweep.from_json(found.to_json()))


def _run(rng: Random) -> Case:
    part = SWEEP.parts[0]
    text = dumped(mutated(rng, SWEEP.spec(part, "digits", "tt:rank=1", 1.0, 0, "select").to_dict(), rng.choice((1, 2))))
    return Case(text, lambda: RunSpec.from_json(text), None, (), lambda found: (str(found), found.id))


def _method(rng: Random) -> Case:
    text, host = garbled_text(rng, rng.choice(METHODS), f"{ALPHABET} rank hidden"), nano()

    def act() -> int:
        method_of(text)
        return num_parameters(text, host)

    return Case(text, act, None, (host,))


def _named(rng: Random) -> Case:
    if rng.random() < 0.5:
        name = garbled_text(rng, rng.choice(MODELS), ALPHABET)
        return Case(name, lambda: make_model(name))
    task, host = garbled_text(rng, rng.choice(TASKS), ALPHABET), nano()
    return Case(task, lambda: open_task(task, host, root="nowhere"), None, (host,))


def _dropout(rng: Random) -> Case:
    data = mutated(rng, {"rank": 0.1, "increment": 0.2, "factors": 0.3}, rng.choice((1, 2)))
    return Case(repr(data), lambda: Dropout.of(data), None, (), lambda found: Dropout.of(found.plain))


MAKERS: tuple[Maker, ...] = (
    *(_plan, _plan, _plan, _notation, _notation, _format, _format, _format),
    *(_format_data, _format_data, _sweep, _run, _method, _named, _dropout),
)

"""Odd arguments to the public functions, one or two in each call, drawn from their signatures."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy
import torch

import tensorfact
from tensorfact import (
    Adapter,
    AdapterState,
    Alpha,
    Bank,
    Rule,
    TensorizationPlan,
    TensorTrain,
    adapt,
    formats,
    recipes,
)
from tensorfact.network import Core, Dropout, Mode, Network
from tests.fuzz.adapters import files, model
from tests.fuzz.case import Case
from tests.helpers import ids
from tests.storage.saved import PLAN

OMITTED = {"Adapter", "Bank", "Format", "register_format"}
"""Names that are not called: `adapt` makes adapters and banks, `Format` is abstract, a registration stays."""

METHODS: dict[type, tuple[str, ...]] = {
    Adapter: ("delta", "check", "explain", "save", "convert", "round", "parameter_groups"),
    Bank: ("add", "classes", "delta", "drop", "map", "merge", "rename", "save", "state", "train_only", "use"),
    AdapterState: ("cores", "save", "check", "load"),
    TensorizationPlan: ("resolve", "split", "only", "swapped", "joined", "arranged", "from_json"),
    Rule: ("match",),
}


class Odd:
    """An object that is nothing else."""


def values() -> tuple[Any, ...]:
    """Return odd values, made anew for every case."""
    meta = torch.zeros(3, 3, device="meta")
    return (
        *(None, True, 0, 1, -1, 5, 2**63, 10**30, 0.0, 0.5, 1e300, math.nan, math.inf, 1j),
        *("", "a", "full", "a\0b", b"a"),
        *([], (), {}, set(), [None], ["a"], [1, 2], [0.5], {"a": 1}, {"g": None}, {1: 2}, {"g": TensorTrain(1)}, [[1]]),
        *(numpy.int64(2), numpy.float32(0.5), numpy.nan, numpy.array([1, 2]), numpy.zeros((4, 4)), numpy.array(None)),
        *(torch.tensor(2), torch.tensor(0.5), torch.zeros(0), torch.ones(4, 4), torch.tensor(True), meta),
        *(Path("nowhere"), object(), Odd, Odd(), len, lambda *_: None, iter([1]), range(3), TensorTrain),
        *(TensorTrain(2), PLAN, slice(1), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, device="meta")),
        *(torch.nn.Module(), Alpha(8), math, torch.float32),
    )


def good(folder: Path) -> dict[str, Any]:
    """Return a valid value for each name of an argument."""
    path, host = folder / "a.safetensors", copy.deepcopy(model())
    path.write_bytes(files()[0])
    (folder / "existing").write_bytes(b"content")
    modes = (Mode("layer", 2, "stack"), Mode("in", 4, "in"), Mode("out", 4, "out"))
    tuned = {name: value + 0.1 for name, value in model().state_dict().items()}
    return {
        "model": host,
        "plan": PLAN,
        "format": TensorTrain(2),
        "scale": 1.0,
        "rank": 2,
        "path": path,
        "adapter": path,
        "adapters": {path: 1.0},
        "base": copy.deepcopy(model()),
        "tuned": tuned,
        "name": "g",
        "parameter_name": KEY,
        "modes": modes,
        "tokens": 8,
        "lr": 0.1,
        "folder": folder / "new",
        "example_input": ids(),
        "axis": "in",
        "into": {"a": 2, "b": 2},
        "plans": {"a": PLAN},
        "text": PLAN.to_json(),
        "groups": PLAN.groups,
        "check": False,
        "first": "in",
        "second": "out",
        "alpha": 8.0,
        "tensor": "g",
        "core": Core("U", ("a",)),
        "dtype": torch.float32,
        "cores": (Core("U", ("a", "b")),),
        "outputs": ("a", "b"),
        "sizes": {"a": 2, "b": 3},
        "param": "{l}.w",
        "pattern": "out in",
        "rules": PLAN.groups[0].rules,
        "blocks": "all",
        "parameter": KEY,
        "heads": 2,
        "order": None,
    }


KEY = "blocks.0.qkv.weight"


@functools.cache
def targets() -> dict[str, Callable[[dict[str, Any]], Callable[..., Any]]]:
    """Return what is called, by name, as functions of the valid values."""
    public = {name: getattr(tensorfact, name) for name in tensorfact.__all__ if name not in OMITTED}
    found: dict[str, Callable[..., Any]] = {name: each for name, each in public.items() if callable(each)}
    classes = {name: getattr(formats, name) for name in formats.__all__ if name not in OMITTED}
    found |= {
        f"formats.{name}": each for name, each in classes.items() if callable(each) and not inspect.isabstract(each)
    }
    found |= {f"recipes.{name}": recipe for name, recipe in recipes.RECIPES.items()}
    found |= {"network.Network": Network, "network.Mode": Mode, "network.Core": Core, "network.Dropout": Dropout.of}
    plain = {name: functools.partial(_same, each) for name, each in found.items()}
    return plain | {f"{cls.__name__}.{name}": functools.partial(_bound, cls, name) for cls, name in _methods()}


def _methods() -> Iterator[tuple[type, str]]:
    yield from ((cls, name) for cls, names in METHODS.items() for name in names)


def _same(function: Callable[..., Any], given: dict[str, Any]) -> Callable[..., Any]:
    return function


def _bound(cls: type, name: str, given: dict[str, Any]) -> Callable[..., Any]:
    owners: Mapping[type, Callable[[], Any]] = {
        Adapter: lambda: adapt(given["model"], PLAN, TensorTrain(2), check=False, seed=0),
        Bank: lambda: adapt(given["model"], PLAN, TensorTrain(2), check=False, seed=0, tasks=["one", "two"]),
        AdapterState: lambda: AdapterState.load(given["path"]),
        TensorizationPlan: lambda: PLAN,
        Rule: lambda: PLAN.groups[0].rules[0],
    }
    found: Callable[..., Any] = getattr(owners[cls](), name)
    return found


def argument_case(rng: Random, folder: Path) -> Case:
    """Call a public function with one or two odd arguments."""
    named = good(folder)
    name = rng.choice(sorted(targets()))
    function = targets()[name](named)
    parameters = inspect.signature(function).parameters
    given = {
        key: named[key] for key, each in parameters.items() if key in named and each.default is inspect.Parameter.empty
    }
    if "combine" in name:
        given["adapters"] = {named["path"]: 1.0}
    changed = rng.sample(sorted(parameters), min(len(parameters), rng.choice((1, 1, 1, 2))))
    missing = [key for key, each in parameters.items() if _needed(each) and key not in given]
    odd = {key: _odd(rng, named) for key in [*missing, *changed] if parameters[key].kind is not _VARIABLE}
    given |= odd
    extra = {"role": _odd(rng, named)} if any(each.kind is _VARIABLE for each in parameters.values()) else {}
    models = tuple(each for each in named.values() if isinstance(each, torch.nn.Module))
    what = f"{name}({', '.join(f'{key}={str(value)[:60]!r}' for key, value in {**odd, **extra}.items())})"
    return Case(what, lambda: function(**given, **extra), None, models)


_VARIABLE = inspect.Parameter.VAR_KEYWORD


def _needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty and parameter.kind is not _VARIABLE


def _odd(rng: Random, named: Mapping[str, Any]) -> Any:
    """Return an odd value, or a valid one of another argument."""
    return rng.choice(values()) if rng.random() < 0.85 else rng.choice(list(named.values()))

"""The house: imports go one way, one module owns each library, and importing changes nothing."""

from __future__ import annotations

import ast
import functools
import graphlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import tensorfact

ROOT = Path(tensorfact.__file__).parent

ORDER = (
    {"errors"},
    {"common"},
    {"network"},
    {"formats"},
    {"model"},
    {"plan"},
    {"storage"},
    {"algebra"},
    {"lora"},
    {"adapters"},
    {"recipes"},
    {"drawing"},
    {"testing"},
    {"lab"},
    {"cli"},
)
"""What may import what: a module or folder imports only from rows above its own, or from its own folder."""

LEVEL = {name: level for level, row in enumerate(ORDER) for name in row}
OWNERS = {
    "tensorly": "formats",
    "opt_einsum": "network",
    "safetensors": "storage",
    "rich": "cli",
    "typer": "cli",
    "matplotlib": "lab",
    "transformers": "lab",
    "hypothesis": "testing",
    "accelerate": "lab",
    "filelock": "lab",
    "optuna": "lab",
    "ray": "lab",
    "datasets": "lab",
}
ANYWHERE = {"__init__", "__main__"}
"""Modules at the end of everything: nothing in the package imports them."""


def modules() -> dict[str, Path]:
    """Return the package's files by their dotted names, without the package's own."""
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


def home(name: str) -> str:
    """Return the module or folder right below the package that a module is in."""
    return name.split(".")[0]


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk a module without what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from run_time_nodes(node)


@functools.cache
def imports(name: str) -> frozenset[str]:
    """Return what a module imports, anywhere in it: absolute names, the package's own as `tensorfact.x.y`."""
    path = modules()[name]
    package = ["tensorfact", *path.relative_to(ROOT).parent.parts]
    found = set()
    for node in run_time_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level], *(node.module or "").split(".")] if node.level else []
            module = ".".join(part for part in base if part) or node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def inner(name: str) -> set[str]:
    """Return the package's modules that a module imports."""
    known, found = modules(), set()
    for imported in imports(name):
        parts = imported.split(".")
        if parts[0] != "tensorfact":
            continue
        candidates = [".".join(parts[1:end]) for end in range(len(parts), 1, -1)]
        found |= {next((candidate for candidate in candidates if candidate in known), "__init__")}
    return found - {name}


@pytest.mark.parametrize("name", sorted(set(modules()) - {"__init__"}))
def test_imports_go_one_way(name: str) -> None:
    if home(name) in ANYWHERE:
        return
    assert home(name) in LEVEL, f"{name} has no place in the order of this test"
    for imported in inner(name):
        assert home(imported) not in ANYWHERE, f"{name} imports {imported}"
        lower = LEVEL[home(imported)] < LEVEL[home(name)]
        assert lower or home(imported) == home(name), f"{name} imports {imported}"


def test_there_is_no_cycle() -> None:
    graph = {name: inner(name) for name in modules() if name != "__init__"}
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("library", OWNERS)
def test_one_module_owns_each_library(library: str) -> None:
    importers = {home(name) for name in modules() if any(i.split(".")[0] == library for i in imports(name))}
    owner = OWNERS[library]
    assert importers == ({owner} if owner in map(home, modules()) else set())


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_stays_small(name: str) -> None:
    assert len(modules()[name].read_text().splitlines()) <= 400


def test_a_new_format_is_short() -> None:
    """One file, and one file of tests by the conformance kit."""
    assert len(modules()["formats.block_term"].read_text().splitlines()) <= 120
    assert len((Path(__file__).parent / "test_block_term.py").read_text().splitlines()) <= 35


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(ast.parse(modules()[name].read_text()))


def test_all_is_what_users_see() -> None:
    public = {n for n, v in vars(tensorfact).items() if not n.startswith("_") and not isinstance(v, ModuleType)}
    assert sorted(tensorfact.__all__) == sorted(public)
    assert all(getattr(tensorfact, name).__doc__ for name in tensorfact.__all__)


OBSERVE = """
import json, sys
import tensorly, torch
before = lambda: {
    "backend": tensorly.get_backend(),
    "dtype": str(torch.get_default_dtype()),
    "device": str(torch.get_default_device()),
    "threads": torch.get_num_threads(),
    "interop": torch.get_num_interop_threads(),
    "grad": torch.is_grad_enabled(),
    "deterministic": torch.are_deterministic_algorithms_enabled(),
    "precision": torch.get_float32_matmul_precision(),
    "random": torch.get_rng_state().sum().item(),
}
torch.manual_seed(0)
state = before()
import tensorfact
print(json.dumps([state, before(), sorted(m for m in sys.modules if "." not in m)]))
"""


def test_importing_changes_nothing_and_brings_no_test_or_drawing_library() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run([sys.executable, "-c", OBSERVE], env=environment, check=True, capture_output=True, text=True)
    before, after, loaded = json.loads(done.stdout)
    assert after == before
    assert not {"datasets", "hypothesis", "matplotlib", "sklearn", "typer", "pytest"} & set(loaded)
    assert not done.stderr


def test_the_package_is_typed() -> None:
    assert (ROOT / "py.typed").exists()

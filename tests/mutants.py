"""Mutation tests: change the package in one point, and see whether a test fails: `python -m tests.mutants`.

    python -m tests.mutants --points 200 --seed 0 --rooms plan network adapters storage

The libraries are imported once. Each mutant is a fork of that process that imports the package with one module changed,
and runs pytest: first on the tests of the module, then on those of its room and on the laws. A mutant is killed if a
test fails, or does not end in time. Mutants that behave like the original are listed in `equivalent_mutants.txt`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import functools
import importlib.machinery
import importlib.util
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
LAWS = "tests/test_laws.py"
OPTIONS = (
    *("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=mutants"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # the plugins were imported before the fork
)

SWAPS = "Lt LtE, Gt GtE, Eq NotEq, Is IsNot, In NotIn, And Or, Add Sub, Mult FloorDiv, BitAnd BitOr"
PAIRS = [pair.split() for pair in SWAPS.split(", ")]
OTHERS = {"Div": "Mult", "Mod": "Mult", "Pow": "Mult", "BitXor": "BitOr"}
OPERATORS = {**dict(PAIRS), **dict(pair[::-1] for pair in PAIRS), **OTHERS}
"""The operator that replaces an operator, by the names of their classes."""
FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}
KEPT = {"strict", "expected", "got", "cause", "fix", "example"}
"""Keywords and variables that only guard against mistakes in the package itself, or are parts of messages."""
SIZES = {"_MIXER", "_NARROW", "_SMALL", "_IMAGE", "_TEXT", "sizes"}
"""Variables and a function that hold the sizes of example models, which may be any."""


class Mutant(NamedTuple):
    """One change of one module.

    Args:
        path: The module's file, below the root of the repository.
        number: The position of the change among those of the module.
        line: The line of the change.
        scope: The innermost function or class around it.
        code: The text of the line.
        before: The code that is changed.
        after: What it is changed to.
    """

    path: str
    number: int
    line: int
    scope: str
    code: str
    before: str
    after: str

    @property
    def name(self) -> str:
        """The change without the number of its line, as in the list of equivalent mutants."""
        return f"{self.path.removeprefix('tensorfact/')} | {self.scope} | {self.code} | {self.before} -> {self.after}"


# ------------------------------------------------------------------------------------------------------------- changes


def alternatives(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what a node is replaced by: another operator, constant or condition, no keyword, no statement."""
    match node:
        case ast.Compare():
            for at, op in enumerate(node.ops):
                yield ast.Compare(node.left, [*node.ops[:at], _swapped(op), *node.ops[at + 1 :]], node.comparators)
        case ast.BinOp() if type(node.op).__name__ in OPERATORS:
            yield ast.BinOp(node.left, _swapped(node.op), node.right)
        case ast.BoolOp():
            yield ast.BoolOp(_swapped(node.op), node.values)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.Constant(value=bool() as flag):
            yield ast.Constant(not flag)
        case ast.Constant(value=int() | float() as number):
            yield ast.Constant(number + 1 if isinstance(number, int) else 2 * number + 1)
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield ast.Return(ast.Constant(None))
        case ast.Raise() | ast.AugAssign() | ast.Continue() | ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.Call():
            if isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
                yield ast.Call(ast.Name(FUNCTIONS[node.func.id], ast.Load()), node.args, node.keywords)
            for at, keyword in enumerate(node.keywords):
                if keyword.arg and keyword.arg not in KEPT:
                    yield ast.Call(node.func, node.args, [*node.keywords[:at], *node.keywords[at + 1 :]])
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) if not _is_operation(test):
            other: Any = copy.copy(node)
            other.test = ast.UnaryOp(ast.Not(), test)
            yield other
        case ast.comprehension(ifs=[test, *others]) if not _is_operation(test):
            yield ast.comprehension(node.target, node.iter, [ast.UnaryOp(ast.Not(), test), *others], 0)


def _swapped(op: ast.AST) -> Any:
    return getattr(ast, OPERATORS[type(op).__name__])()


def _is_operation(test: ast.expr) -> bool:
    """Whether a condition has a change of its own."""
    return isinstance(test, (ast.Compare, ast.BoolOp, ast.Constant)) or ast.unparse(test).startswith("not ")


def _is_kept(node: ast.AST) -> bool:
    """Whether a node stays, and all that is in it: texts for people, code for type checkers, sizes of examples."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.Assert():
            return True
        case ast.keyword():
            return node.arg in KEPT
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name in KEPT | SIZES
        case ast.FunctionDef():
            return node.name in {"__repr__", "__str__"} | SIZES
        case ast.Call():
            called = ast.unparse(node.func)
            return called.endswith("Error") or called in {"cast", "TypeVar", "Example"} | SIZES
        case ast.If():
            return "TYPE_CHECKING" in ast.unparse(node.test)
    return False


def places(node: ast.AST, scope: str = "") -> Iterator[tuple[ast.AST, str, int | None, ast.AST, str]]:
    """Yield every node below a node that may change, as (parent, field, position in the field, node, scope)."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for at, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and not _is_kept(child):
                inside = scope
                if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                    inside = f"{scope}.{child.name}".strip(".")
                yield node, field, at, child, inside
                yield from places(child, inside)


def changes(tree: ast.Module) -> Iterator[tuple[ast.AST, str, int | None, ast.AST, ast.AST, str]]:
    """Yield every change of a module: the place, the node, what replaces it, and the scope."""
    for parent, field, at, node, scope in places(tree):
        for other in alternatives(node):
            yield parent, field, at, node, other, scope


def mutants(path: Path) -> list[Mutant]:
    """Return every mutant of a file."""
    found, line, lines = [], 0, path.read_text().splitlines()
    for number, (parent, _, _, node, other, scope) in enumerate(changes(ast.parse(path.read_text()))):
        line = getattr(node, "lineno", getattr(parent, "lineno", line))
        before, after = (ast.unparse(each).partition("\n")[0].strip() for each in (node, other))
        name = path.relative_to(ROOT).as_posix()
        found.append(Mutant(name, number, line, scope, lines[line - 1].strip(), before, after))
    return found


def mutated(mutant: Mutant) -> CodeType:
    """Compile the file of a mutant with its change."""
    tree = ast.parse((ROOT / mutant.path).read_text())
    parent, field, at, _, other, _ = list(changes(tree))[mutant.number]
    if at is None:
        setattr(parent, field, other)
    else:
        getattr(parent, field)[at] = other
    return compile(ast.fix_missing_locations(tree), str(ROOT / mutant.path), "exec")


# --------------------------------------------------------------------------------------------------------------- tests


class Finder(importlib.machinery.SourceFileLoader):
    """Finds and loads a mutated module, before any other finder does and without bytecode.

    Args:
        mutant: The change.
    """

    def __init__(self, mutant: Mutant) -> None:
        name = ".".join(Path(mutant.path).with_suffix("").parts).removesuffix(".__init__")
        super().__init__(name, str(ROOT / mutant.path))
        self.mutant = mutant

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of the mutated module, and None for any other."""
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        """Return the changed code."""
        return mutated(self.mutant)


@functools.cache
def elsewhere() -> dict[str, str]:
    """Return the file that tests each module without tests of its own."""
    code = "import json; from tests.test_structure import UNMIRRORED; print(json.dumps(UNMIRRORED))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name: reason.split(": ")[0] for name, reason in json.loads(printed).items()}


def stages(path: str) -> list[tuple[str, ...]]:
    """Return the tests that a mutant of a file has to pass: its own, those beside them, those of its room, the laws."""
    *rooms, last = Path(path).with_suffix("").parts[1:]
    folder = ROOT.joinpath("tests", *rooms)
    mirror = folder / f"test_{last}.py"
    own = str(mirror.relative_to(ROOT)) if mirror.exists() else elsewhere().get(".".join([*rooms, last]))
    room = sorted((ROOT / "tests" / rooms[0]).rglob("test_*.py"), key=lambda file: (file.parent != folder, file))
    by_distance: dict[bool, list[str]] = {True: [], False: []}
    for file in room:
        if (name := str(file.relative_to(ROOT))) != own:
            by_distance[file.parent == folder].append(name)
    return [*([(own, path)] if own else []), *(tuple(names) for names in by_distance.values() if names), (LAWS,)]


def _test(targets: Sequence[str], mutant: Mutant | None) -> None:
    """Run pytest in this process, which ends with its status."""
    os.setsid()
    os.chdir(ROOT)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    if mutant:
        sys.meta_path.insert(0, Finder(mutant))
    import pytest

    os._exit(pytest.main([*OPTIONS, *targets]))


def passes(targets: Sequence[str], mutant: Mutant | None, limit: float) -> bool:
    """Return whether tests pass in a fork of this process, within a number of seconds."""
    child = multiprocessing.get_context("fork").Process(target=_test, args=(targets, mutant))
    child.start()
    child.join(limit)
    if child.exitcode is None and child.pid:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.join()
    return child.exitcode == 0


def time_limit(targets: tuple[str, ...]) -> float:
    """Return the seconds that tests may take: four times those of the unchanged package, which has to pass them."""
    start = time.monotonic()
    if not passes(targets, None, 3600):
        raise RuntimeError(f"{' '.join(targets)} fails without a change")
    return 4 * (time.monotonic() - start) + 30


def survivors(sample: Sequence[Mutant], pool: ProcessPoolExecutor) -> list[Mutant]:
    """Return the mutants that pass the tests of every stage; print each one that does not."""
    waiting = {mutant: stages(mutant.path) for mutant in sample}
    for number in range(max(map(len, waiting.values()))):
        stage = {mutant: targets[number] for mutant, targets in waiting.items() if number < len(targets)}
        distinct = list(dict.fromkeys(stage.values()))
        limits = dict(zip(distinct, pool.map(time_limit, distinct), strict=True))
        passed = pool.map(passes, stage.values(), stage, [limits[targets] for targets in stage.values()])
        for mutant, survived in zip(stage, passed, strict=True):
            if not survived:
                del waiting[mutant]
            outcome = f"{'passes' if survived else 'killed by'} stage {number + 1}"
            print(f"{time.strftime('%H:%M:%S')} {outcome}: line {mutant.line} | {mutant.name}", flush=True)  # noqa: T201
    return list(waiting)


# --------------------------------------------------------------------------------------------------------------- tools


def equivalent() -> dict[str, str]:
    """Return the reasons why some mutants behave like the original, by their names."""
    lines = [line for line in EQUIVALENT.read_text().splitlines() if line and not line.startswith("#")]
    return {name: reason for name, _, reason in (line.rpartition(" # ") for line in lines)}


def every_mutant(rooms: Sequence[str]) -> list[Mutant]:
    """Return the mutants of some rooms."""
    files = sorted(path for room in rooms for path in (ROOT / "tensorfact" / room).rglob("*.py"))
    return [mutant for path in files for mutant in mutants(path)]


def prepare() -> None:
    """Import what the tests need beside the package, once for all mutants."""
    import hypothesis
    import timm  # noqa: F401
    import torch

    torch.set_num_threads(1)
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # a failing example is not made simpler
    hypothesis.settings.register_profile("mutants", deadline=None, max_examples=15, derandomize=True, phases=phases)


def main() -> None:
    """Test a sample of mutants; print the survivors and the score of each room."""
    parser = argparse.ArgumentParser(description="Test whether the tests notice changes of the package.")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="+", default=["plan", "network", "adapters", "storage"])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    known = equivalent()
    every = [mutant for mutant in every_mutant(options.rooms) if mutant.name not in known]
    sample = random.Random(options.seed).sample(every, min(options.points, len(every)))
    elsewhere()
    prepare()
    start = time.monotonic()
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("fork")) as pool:
        left = survivors(sample, pool)
    for room in (*options.rooms, ""):
        count, alive = (sum(m.path.startswith(f"tensorfact/{room}") for m in each) for each in (sample, left))
        print(f"{room or 'all'}: {count - alive} of {count} killed, {1 - alive / max(count, 1):.1%}")  # noqa: T201
    print(f"{time.monotonic() - start:.0f} s")  # noqa: T201
    print("\n".join(f"survived: line {mutant.line} | {mutant.name}" for mutant in left))  # noqa: T201


if __name__ == "__main__":
    main()

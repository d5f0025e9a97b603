"""The tool of mutation tests: its changes, the tests that it runs on each, and its list of equivalent mutants."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys

import pytest

from tests.mutants.changes import ROOT, Finder, Mutant, changes, equivalent, every_mutant, mutants
from tests.mutants.covering import Record, covering
from tests.mutants.runs import passes, prepare

ROOMS = ("plan", "network", "adapters", "storage")


def changed(source: str) -> list[str]:
    """Return every changed expression or statement of a source."""
    return [ast.unparse(other).replace("\n    ", " ") for _, other in changes(source)[1]]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b <= c", ["a <= b <= c", "a < b < c"]),
        ("a + b * 2", ["a - b * 2", "b // 2", "3"]),
        ("a and not b", ["a or not b", "b"]),
        ("f(True, key=a, fix=b)", ["pass", "f(True, fix=b)", "False"]),
        ("x = min(a, b)", ["max(a, b)"]),
        ("x.y = a", ["pass"]),
        ("if a: f()", ["if not a: f()", "pass"]),
        ("x = [a for a in b if a]", [" for a in b if not a"]),
        ("def f(a: int = 1) -> int | None:\n    'One.'\n    return a", ["2", "return None"]),
        ("raise ValueError(f'{a + 1}')", ["pass"]),
        ("assert a < b", []),
        ("def __repr__(self): return 1 + 2", []),
        ("if TYPE_CHECKING: import a", []),
        ("x = zip(a, b, strict=True)", []),
        ("fix = 1 + 2", []),
    ],
)
def test_every_kind_of_change_is_made_once(source: str, expected: list[str]) -> None:
    assert changed(source) == expected


def test_a_mutant_is_loaded_in_place_of_its_module() -> None:
    path = ROOT / "tensorfact/network/cost.py"
    (mutant,) = (each for each in mutants(path) if each.code.startswith("return Cost(2 *") and each.after == "3")
    finder = Finder(mutant)
    assert finder.find_spec("tensorfact.network.cut") is None
    spec = finder.find_spec("tensorfact.network.cost")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    assert module.product(1, 1, 1).flops == 3
    assert mutant.name.startswith("network/cost.py | product | return Cost(2 * rows")


def test_equivalent_mutants_exist_and_say_why() -> None:
    known = equivalent()
    assert set(known) <= {mutant.name for mutant in every_mutant(ROOMS)}
    assert all(len(reason) > 10 for reason in known.values())


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("x = 1\ny = 2\n", [(1, 3), (1, 3)]),  # they run when the module is imported
        ("class A:\n    x: int = 1\n", [(1, 3)]),
        ("def f(a=1):\n    return (\n        2\n    )\n", [(1, 4), (2, 4), (2, 4)]),
        ("def f(a):\n    if a < (\n        3\n    ):\n        g()\n", [(2, 4), (2, 4), (5, 5)]),
    ],
)
def test_a_change_has_the_lines_of_its_statement(code: str, lines: list[tuple[int, int]]) -> None:
    assert [(place.lines[0], place.lines[-1]) for place, _ in changes(code)[1]] == lines


OWN, BESIDE = "tests/network/test_cost.py", "tests/network/test_order.py"


class Known(Record):
    """A record of tests that were not run."""

    def __init__(self, file: str, lines: dict[str, set[int]], seconds: dict[str, float]) -> None:
        self.file, self.lines, self.seconds = file, lines, seconds

    def _contexts(self, path: str) -> dict[int, list[str]]:  # type: ignore[override]  # that one is cached
        every = set().union(*self.lines.values())
        return {line: [context for context, own in self.lines.items() if line in own] for line in every}


def test_the_tests_of_a_mutant_run_its_lines_and_take_no_longer_than_allowed() -> None:
    mutant = Mutant("tensorfact/network/cost.py", 0, 5, range(5, 7), "f", "a + b", "a + b", "a - b")
    own = Known(OWN, {"own::a": {5}, "own::b": {7}, "own::c": {6}}, {"own::a": 3.0, "own::b": 1.0, "own::c": 1.0})
    shared = Known(BESIDE, {BESIDE: {6}}, {f"{BESIDE}::a": 2.0, f"{BESIDE}::b": 0.5})  # by a fixture of the file
    beside = [f"{BESIDE}::b", "own::c", f"{BESIDE}::a", "own::a"]
    assert covering(mutant, [own, shared], 60) == ([], beside, 6.5)
    assert covering(mutant, [own, shared], 2) == ([], beside[:2], 1.5)


@pytest.mark.slow
def test_a_mutant_is_tested_in_a_fork_and_the_tests_pass_without_it() -> None:
    path = ROOT / "tensorfact/network/cost.py"
    (mutant,) = (each for each in mutants(path) if each.code.startswith("return Cost(2 *") and each.after == "3")
    code = "from tests.test_mutants import kills; import sys; sys.exit(kills(sys.argv[1]))"
    ended = subprocess.run([sys.executable, "-c", code, mutant.name], cwd=ROOT, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()


def kills(name: str) -> int:
    """Return 0 if the tests of a module pass, and fail with a change of it; in a process without the package."""
    prepare()
    record = Record(OWN)
    (mutant,) = (each for each in mutants(ROOT / "tensorfact/network/cost.py") if each.name == name)
    if not record.exists:
        record.make()
    names, _, _ = covering(mutant, [record], 60)
    return int(not names or not passes(names, None, 60) or passes(names, mutant, 60))

"""The tool of mutation tests: which changes it makes, and that its list of equivalent mutants is up to date."""

from __future__ import annotations

import ast
import importlib.util
import sys

import pytest

from tests.mutants import ROOT, Finder, changes, equivalent, every_mutant, mutants, stages

ROOMS = ("plan", "network", "adapters", "storage")


def changed(source: str) -> list[str]:
    """Return every changed expression or statement of a source."""
    return [ast.unparse(other).replace("\n    ", " ") for _, _, _, _, other, _ in changes(ast.parse(source))]


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


@pytest.mark.parametrize("path", ["plan/rules.py", "plan/families/fold.py", "network/order.py", "storage/files.py"])
def test_stages_run_every_test_of_the_room_once(path: str) -> None:
    own, *others = stages(f"tensorfact/{path}")
    room = path.partition("/")[0]
    files = [own[0], *(name for stage in others for name in stage)]
    assert sorted(files) == sorted(
        [*(str(f.relative_to(ROOT)) for f in (ROOT / f"tests/{room}").rglob("test_*.py")), "tests/test_laws.py"]
    )

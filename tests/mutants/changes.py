"""What a mutant is: every small change of a module, the module that is imported with it, and the known equivalents."""

from __future__ import annotations

import ast
import copy
import importlib.machinery
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.txt")

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
        lines: The lines of its statement; those of the file, for a statement that runs when the module is imported.
        scope: The innermost function or class around it.
        code: The text of the line.
        before: The code that is changed.
        after: What it is changed to.
    """

    path: str
    number: int
    line: int
    lines: range
    scope: str
    code: str
    before: str
    after: str

    @property
    def at_import(self) -> bool:
        """Whether the statement runs when the module is imported."""
        return self.lines.start == 1

    @property
    def name(self) -> str:
        """The change without the number of its line, as in the list of equivalent mutants."""
        return f"{self.path.removeprefix('tensorfact/')} | {self.scope} | {self.code} | {self.before} -> {self.after}"


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


class Place(NamedTuple):
    """A node that may change, and where it is.

    Args:
        parent: The node that holds it.
        field: The field of the parent.
        at: The position in the field, if that is a list.
        node: The node.
        scope: The innermost function or class around it.
        lines: The lines of its statement, as in a mutant.
    """

    parent: ast.AST
    field: str
    at: int | None
    node: ast.AST
    scope: str
    lines: range


def places(node: ast.AST, lines: range, scope: str = "", in_function: bool = False) -> Iterator[Place]:
    """Yield every place below a node."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for at, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or _is_kept(child):
                continue
            is_function = isinstance(child, ast.FunctionDef)
            inside = scope
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inside = f"{scope}.{child.name}".strip(".")
            own = _lines(child) if isinstance(child, ast.stmt) and (in_function or is_function) else lines
            yield Place(node, field, at, child, inside, own)
            yield from places(child, own, inside, in_function or is_function)


def _lines(statement: ast.stmt) -> range:
    """Return the lines of a statement without those in its body, or all lines of a function."""
    last = statement.end_lineno or statement.lineno
    if not isinstance(statement, ast.FunctionDef) and (body := getattr(statement, "body", None)):
        last = max(statement.lineno, body[0].lineno - 1)
    return range(statement.lineno, last + 1)


def changes(source: str) -> tuple[ast.Module, list[tuple[Place, ast.AST]]]:
    """Return the tree of a module, and every change of it: the place, and what replaces its node."""
    tree = ast.parse(source)
    every = places(tree, range(1, source.count("\n") + 2))
    return tree, [(place, other) for place in every for other in alternatives(place.node)]


def mutants(path: Path) -> list[Mutant]:
    """Return every mutant of a file."""
    found, line, source = [], 0, path.read_text()
    for number, (place, other) in enumerate(changes(source)[1]):
        line = getattr(place.node, "lineno", getattr(place.parent, "lineno", line))
        before, after = (ast.unparse(each).partition("\n")[0].strip() for each in (place.node, other))
        name, code = path.relative_to(ROOT).as_posix(), source.splitlines()[line - 1].strip()
        found.append(Mutant(name, number, line, place.lines, place.scope, code, before, after))
    return found


def every_mutant(rooms: Sequence[str]) -> list[Mutant]:
    """Return the mutants of some rooms."""
    files = sorted(path for room in rooms for path in (ROOT / "tensorfact" / room).rglob("*.py"))
    return [mutant for path in files for mutant in mutants(path)]


def equivalent() -> dict[str, str]:
    """Return the reasons why some mutants behave like the original, by their names."""
    lines = [line for line in EQUIVALENT.read_text().splitlines() if line and not line.startswith("#")]
    return {name: reason for name, _, reason in (line.rpartition(" # ") for line in lines)}


def mutated(mutant: Mutant) -> CodeType:
    """Compile the file of a mutant with its change."""
    tree, every = changes((ROOT / mutant.path).read_text())
    place, other = every[mutant.number]
    if place.at is None:
        setattr(place.parent, place.field, other)
    else:
        getattr(place.parent, place.field)[place.at] = other
    return compile(ast.fix_missing_locations(tree), str(ROOT / mutant.path), "exec")


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

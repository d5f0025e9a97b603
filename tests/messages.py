"""Every message that the package raises, as one table to be read in one go: `python -m tests.messages`.

Expressions in a message stand in braces as they are written in the code.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tensorfact
from tensorfact import errors

ROOT = Path(tensorfact.__file__).parent
CLASSES = {name for name, value in vars(errors).items() if inspect.isclass(value)} & {
    name for name in vars(errors) if name.endswith("Error")
}
PARTS = ("expected", "got", "cause", "fix")


class Message(NamedTuple):
    """One raised message.

    Args:
        place: File and line.
        error: The class of the error.
        problem: What is wrong.
        parts: Expected, got, cause and fix; empty where the message has none.
    """

    place: str
    error: str
    problem: str
    parts: tuple[str, ...]


def spelled(node: ast.expr | None) -> str:
    """Return a text as its reader sees it, with its expressions in braces."""
    if node is None:
        return ""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else field(v) for v in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return spelled(node.left) + spelled(node.right)
    return f"{{{ast.unparse(node)}}}"


def field(node: ast.expr) -> str:
    """Return an expression of an f-string in its braces.

    Which quotes surround a part that is unparsed alone, and whether an f stands before them, depends on the version of
    Python.
    """
    text = ast.unparse(node)
    return text[text.index("{") : text.rindex("}") + 1]


def messages() -> Iterator[Message]:
    """Yield every message, file by file."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "id", "")
            if name in CLASSES:
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                place = f"{path.relative_to(ROOT.parent)}:{node.lineno}"
                parts = tuple(spelled(given.get(part)) for part in PARTS)
                yield Message(place, name, spelled(node.args[0]), parts)


def main() -> None:
    """Print one block for each message."""
    for message in messages():
        print(f"{message.place}  {message.error}\n    {message.problem}")  # noqa: T201
        for name, text in zip(PARTS, message.parts, strict=True):
            if text:
                print(f"    {name:9}{text}")  # noqa: T201


if __name__ == "__main__":
    main()

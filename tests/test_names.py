"""One noun, one idea: no two public classes of the package share a name, and the glossary names classes there are."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import tensorfact

ROOT = Path(tensorfact.__file__).parent
GLOSSARY = Path(__file__).parents[1] / "docs" / "explanation" / "architecture.md"


def public_classes() -> dict[str, list[str]]:
    found = defaultdict(list)
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(path.relative_to(ROOT).as_posix())
    return found


def test_no_two_public_classes_share_a_name() -> None:
    assert {name: paths for name, paths in public_classes().items() if len(paths) > 1} == {}


def test_the_glossary_names_classes_where_they_are() -> None:
    section = GLOSSARY.read_text().partition("## The words")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| `([\w/.]+)` \|", section, re.MULTILINE)
    assert len(rows) >= 20
    classes = public_classes()
    assert [row for row in rows if classes.get(row[0]) != [row[1]]] == []

"""Parameters found by a rule through the index, and one by one: the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tensorfact import Rule
from tensorfact.errors import PlanError
from tensorfact.plan.names import ParameterNames

WORDS = st.sampled_from(["a", "b", "a1", "b2", "0", "10", "w", ""])
NAMES = st.lists(st.lists(WORDS, min_size=1, max_size=4).map(".".join), unique=True, max_size=12)
PIECES = st.sampled_from(["a", "b", "{x}", "{y}", "a{x}", "{x}b{y}", "w", "0", ""])


@given(NAMES, st.lists(PIECES, min_size=1, max_size=4).map(".".join))
def test_the_index_finds_what_every_name_alone_tells(names: list[str], template: str) -> None:
    try:
        rule = Rule(template, "out in")
    except PlanError:
        return
    expected = [(name, found) for name in names if (found := rule.match(name)) is not None]
    assert list(ParameterNames(names).matching(rule)) == expected


def test_many_rules_ask_for_few_names() -> None:
    """Only names that differ from the template in captured words alone are compared with it."""
    names = ParameterNames(f"layers.{k}.{part}.weight" for k in range(1000) for part in ("up", "down"))
    assert [name for name, _ in names.matching(Rule("layers.7.up.weight", "out in"))] == ["layers.7.up.weight"]
    assert len(list(names.matching(Rule("layers.{k}.up.weight", "out in")))) == 1000
    assert len(list(names.matching(Rule("layers.{k}.{part}.weight", "out in")))) == 2000
    assert list(names.matching(Rule("layers.{k}.weight", "out in"))) == []

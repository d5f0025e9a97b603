"""The exception tree and the form of its messages."""

from __future__ import annotations

import inspect

import pytest

import tensorfact.errors
from tensorfact.errors import TensorfactError, nearest

TREE = [
    kind for _, kind in inspect.getmembers(tensorfact.errors, inspect.isclass) if kind.__module__ == "tensorfact.errors"
]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_is_of_the_one_tree_and_documented(kind: type[Exception]) -> None:
    assert issubclass(kind, TensorfactError)
    assert kind.__doc__
    assert kind.__name__ in (tensorfact.errors.__doc__ or "")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "p."),
        ({"expected": "a"}, "p: expected a."),
        ({"got": "b"}, "p: got b."),
        ({"expected": "a", "got": "b", "cause": "c.", "fix": "d"}, "p: expected a, got b. Usual cause: c. Fix: d."),
    ],
)
def test_a_message_holds_the_parts_that_were_given(parts: dict[str, str], message: str) -> None:
    assert str(TensorfactError("p", **parts)) == message


@pytest.mark.parametrize(("word", "hint"), [("tuker", "; did you mean 'tucker'?"), ("TT", ""), ("", ""), ("xyz", "")])
def test_the_nearest_option_is_suggested(word: str, hint: str) -> None:
    assert nearest(word, ["tt", "tucker"]) == hint


@pytest.mark.parametrize("part", ["problem", "expected", "got", "cause", "fix"])
@pytest.mark.parametrize("text", ["a\nb", "a\r\nb\n\nc", "x" * 100_000, "a\u2028b", "\n"])
def test_a_message_is_one_line_of_bounded_length(part: str, text: str) -> None:
    message = str(TensorfactError(**{"problem": "p", part: text}))
    assert len(message.splitlines()) == 1
    assert len(message) < 1100

"""The exception tree and the form of its messages."""

from __future__ import annotations

import inspect

import pytest

import tensorfact.errors
from tensorfact.errors import TensorfactError, nearest, printable

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


@pytest.mark.parametrize("part", ["problem", "expected", "got", "cause", "fix"])
@pytest.mark.parametrize("text", ["\x1b[31m", "\u202eexe\u2069", "a\r\nb", "\ud800", "\x00"])
def test_a_message_is_one_line_that_every_terminal_shows(part: str, text: str) -> None:
    message = str(TensorfactError(**{"problem": "p", part: f"file {text!s} {text!r}"}))
    assert message.isprintable()
    assert printable(message) == message


@pytest.mark.parametrize("part", ["problem", "expected", "got", "cause", "fix"])
@pytest.mark.parametrize("text", ["x" * 5000, "a b " * 5000, "\x1b" * 5000])
def test_a_message_quotes_at_most_200_characters(part: str, text: str) -> None:
    message = str(TensorfactError(**{"problem": "p", part: f"the file holds {text!r}, which is wrong"}))
    assert len(message) < 300
    assert "which is wrong" in message or part == "got"

"""The names of a model's parameters, indexed so that a rule finds its own without a look at all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .rules import Coordinate, Rule

Words = tuple[str, ...]
"""A name, split at its dots."""

_Form = tuple[int, tuple[int, ...]]
"""The number of words of a template, and the positions of the words with captures."""


class ParameterNames:
    """Names of parameters, to be searched by templates.

    Args:
        names: The names, each once.

    Examples:
        >>> names = ParameterNames(["blocks.0.w", "blocks.1.w", "head.w"])
        >>> list(names.matching(Rule("blocks.{layer}.w", "out in")))
        [('blocks.0.w', {'layer': 0}), ('blocks.1.w', {'layer': 1})]
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._by_length: dict[int, list[tuple[str, Words]]] = {}
        for name in names:
            words = tuple(name.split("."))
            self._by_length.setdefault(len(words), []).append((name, words))
        self._tables: dict[_Form, dict[Words, list[str]]] = {}

    def matching(self, rule: Rule) -> Iterator[tuple[str, dict[str, Coordinate]]]:
        """Yield the names that a rule's template matches, in their order, with the coordinates captured from them.

        Args:
            rule: The rule.
        """
        words = tuple(rule.param.split("."))
        captures = tuple(at for at, word in enumerate(words) if "{" in word)
        for name in self._table((len(words), captures)).get(_without(words, captures), ()):
            if (captured := rule.match(name)) is not None:
                yield name, captured

    def _table(self, form: _Form) -> dict[Words, list[str]]:
        """Return the names by their words, without those at the positions of captures."""
        if form not in self._tables:
            table = self._tables[form] = {}
            length, captures = form
            for name, words in self._by_length.get(length, ()):
                table.setdefault(_without(words, captures), []).append(name)
        return self._tables[form]


def _without(words: Words, positions: tuple[int, ...]) -> Words:
    return tuple(word for at, word in enumerate(words) if at not in positions) if positions else words

"""Laws that can be checked, lists of laws, and the errors for broken laws."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, overload

from ..common.table import Table

S = TypeVar("S")
T = TypeVar("T")


class LawError(AssertionError):
    """A law does not hold. The message has the name of the law, what was expected and found, and the usual cause."""


class BrokenError(AssertionError):
    """Raised by a check; the law adds its name to the message.

    Args:
        expected: The value or property that the law requires.
        got: The value or property that was found.
        cause: The usual cause.
    """

    def __init__(self, expected: str, got: object, cause: str) -> None:
        super().__init__(f"expected {expected}, got {got}. Usual cause: {cause}.")


def require(holds: bool, *, expected: str, got: object, cause: str) -> None:
    """Raise unless a condition holds.

    Args:
        holds: The condition.
        expected: The value or property that the law requires.
        got: The value or property that was found.
        cause: The usual cause.

    Raises:
        BrokenError: The condition does not hold.
    """
    if not holds:
        raise BrokenError(expected, got, cause)


@dataclasses.dataclass(frozen=True)
class Law:
    """One law of one subject. Call it to check it.

    Args:
        name: The name of the law.
        statement: The law in one line.
        check: The check; it returns why the law does not apply, or None.

    Examples:
        >>> from tensorfact import TensorTrain
        >>> from tensorfact.testing import check_format
        >>> law = check_format(TensorTrain(rank=2))[0]
        >>> law.name, law()
        ('immutable', None)
    """

    name: str
    statement: str
    check: Callable[[], str | None] = dataclasses.field(repr=False)

    def __call__(self) -> str | None:
        """Check the law.

        Returns:
            None if it holds, or why it does not apply.

        Raises:
            LawError: The law does not hold.
        """
        __tracebackhide__ = True
        try:
            return self.check()
        except BrokenError as broken:
            raise self._error(str(broken), broken) from None
        except Exception as error:  # the code under test may raise anything
            raise self._error(f"expected {self.statement}, got {type(error).__name__}: {error}", error) from error

    def _error(self, message: str, cause: Exception) -> LawError:
        found = LawError(f"{self.name}: {message}")
        for note in getattr(cause, "__notes__", ()):  # the example that hypothesis found
            found.add_note(note)
        return found


@dataclasses.dataclass(frozen=True)
class Laws(Sequence[Law]):
    """The laws of one subject: a sequence that pytest can run and that prints as a table.

    Args:
        subject: The name of the format or plan under test.
        laws: The laws, in the order in which they are checked.
    """

    subject: str
    laws: tuple[Law, ...]

    @overload
    def __getitem__(self, index: int) -> Law: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Law, ...]: ...
    def __getitem__(self, index: int | slice) -> Law | tuple[Law, ...]:
        return self.laws[index]

    def __len__(self) -> int:
        return len(self.laws)

    def as_test(self) -> Callable[[Law], None]:
        """Return a pytest test with one case per law: `test_laws = check_format(MyFormat(2)).as_test()`.

        A law that does not apply is skipped, with the reason.
        """
        import pytest  # imported here because the other functions work without pytest

        cases = [pytest.param(law, id=law.name) for law in self.laws]

        def test(law: Law) -> None:
            __tracebackhide__ = True
            if reason := law():
                pytest.skip(reason)

        checked: Callable[[Law], None] = pytest.mark.parametrize("law", cases)(test)
        return checked

    def table(self) -> Table:
        """Return the names and statements of the laws, without checking them."""
        return Table(("law", "what it says"), tuple((law.name, law.statement) for law in self.laws))

    def report(self) -> Table:
        """Check every law and return one row for each: its name, whether it holds, and its message.

        Examples:
            >>> from tensorfact import TensorTrain
            >>> from tensorfact.testing import check_format
            >>> [row for row in check_format(TensorTrain(rank=2)).report().rows if row[1] == "no"]
            []
        """
        rows = []
        for law in self.laws:
            try:
                reason = law()
            except LawError as error:
                rows.append((law.name, "no", str(error).removeprefix(f"{law.name}: ")))
            else:
                rows.append((law.name, "does not apply" if reason else "yes", reason or ""))
        return Table(("law", "holds", "message"), tuple(rows))


@dataclasses.dataclass(frozen=True)
class LawCheck(Generic[S]):
    """A law for all subjects of one type.

    Args:
        name: The name of the law.
        statement: The law in one line.
        check: Checks a subject; it returns why the law does not apply, or None.
        needs: The laws that must hold before this one can be checked.
    """

    name: str
    statement: str
    check: Callable[[S], str | None]
    needs: tuple[str, ...] = ()


def laws_of(subject: S, title: str, rules: Sequence[LawCheck[S]]) -> Laws:
    """Return the laws of one subject. Each is checked at most once, and its outcome is cached.

    A law is not checked while one of its needs is broken, so that one fault breaks one law.

    Args:
        subject: The subject under test.
        title: The name of the subject.
        rules: The laws for subjects of this type.
    """
    known = {rule.name: rule for rule in rules}

    @functools.cache
    def outcome(name: str) -> str | Exception | None:
        if need := unmet(name):
            return f"not checked while {need!r} does not hold"
        try:
            return known[name].check(subject)
        except Exception as error:  # the code under test may raise anything
            return error

    def unmet(name: str) -> str:
        """Return the first broken law among the direct and indirect needs of a law."""
        failed = (need if isinstance(outcome(need), Exception) else unmet(need) for need in known[name].needs)
        return next(filter(None, failed), "")

    def check(name: str) -> str | None:
        found = outcome(name)
        if isinstance(found, Exception):
            raise found.with_traceback(None)
        return found

    return Laws(title, tuple(Law(each.name, each.statement, functools.partial(check, each.name)) for each in rules))


def crashed(call: Callable[[], T], *, expected: str, cause: str) -> T:
    """Return the result of a call, or raise `BrokenError` if it raises anything.

    Args:
        call: The code under test.
        expected: The property that the law requires.
        cause: The usual cause.

    Raises:
        BrokenError: The call raised.
    """
    try:
        return call()
    except Exception as error:
        raise BrokenError(expected, f"{type(error).__name__}: {error}", cause) from error

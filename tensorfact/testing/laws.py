"""A law that can be checked, a list of laws, and what is raised where one is broken."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, overload

from ..common.table import Table

S = TypeVar("S")


class LawError(AssertionError):
    """A law that does not hold: its name, what was expected, what arrived, the usual cause."""


class BrokenError(AssertionError):
    """What a check raises; the law puts its name before it.

    Args:
        expected: What the law says.
        got: What arrived.
        cause: The usual cause.
    """

    def __init__(self, expected: str, got: object, cause: str) -> None:
        super().__init__(f"expected {expected}, got {got}. Usual cause: {cause}.")


def require(holds: bool, *, expected: str, got: object, cause: str) -> None:
    """Raise unless something holds.

    Args:
        holds: Whether it does.
        expected: What the law says.
        got: What arrived.
        cause: The usual cause.

    Raises:
        BrokenError: It does not.
    """
    if not holds:
        raise BrokenError(expected, got, cause)


@dataclasses.dataclass(frozen=True)
class Law:
    """One law about one subject. Call it to check it.

    Args:
        name: Its name.
        statement: What it says, in one line.
        check: Checks it; returns why it does not apply, or None.

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
            LawError: It does not hold.
        """
        __tracebackhide__ = True
        try:
            return self.check()
        except BrokenError as broken:
            raise self._error(str(broken), broken) from None
        except Exception as error:  # whatever the code under test raises
            raise self._error(f"expected {self.statement}, got {type(error).__name__}: {error}", error) from error

    def _error(self, message: str, cause: Exception) -> LawError:
        found = LawError(f"{self.name}: {message}")
        for note in getattr(cause, "__notes__", ()):  # the example that hypothesis found
            found.add_note(note)
        return found


@dataclasses.dataclass(frozen=True)
class Laws(Sequence[Law]):
    """The laws about one subject, to be looped over, run by pytest, or printed as a table.

    Args:
        subject: What they are about.
        laws: The laws.
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
        """Return a test for pytest, one case a law: `test_laws = check_format(MyFormat(2)).as_test()`.

        A law that does not apply is skipped, with the reason.
        """
        import pytest  # here alone: the kit works without it

        cases = [pytest.param(law, id=law.name) for law in self.laws]

        def test(law: Law) -> None:
            __tracebackhide__ = True
            if reason := law():
                pytest.skip(reason)

        checked: Callable[[Law], None] = pytest.mark.parametrize("law", cases)(test)
        return checked

    def table(self) -> Table:
        """Return the laws and what they say, unchecked."""
        return Table(("law", "what it says"), tuple((law.name, law.statement) for law in self.laws))

    def report(self) -> Table:
        """Check every law and return one row for each: its name, whether it holds, and what it had to say.

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
    """A law of every subject of a kind.

    Args:
        name: The law's name.
        statement: What it says.
        check: Checks a subject; returns why it does not apply, or None.
        needs: The laws that must hold for this one to mean anything.
    """

    name: str
    statement: str
    check: Callable[[S], str | None]
    needs: tuple[str, ...] = ()


def laws_of(subject: S, title: str, rules: Sequence[LawCheck[S]]) -> Laws:
    """Return the laws of one subject. Each is checked once, and its outcome kept.

    A law whose needs are not met does not apply, so that one fault breaks one law.

    Args:
        subject: What they are about.
        title: Its name.
        rules: The laws of its kind.
    """
    known = {rule.name: rule for rule in rules}

    @functools.cache
    def outcome(name: str) -> str | Exception | None:
        if need := unmet(name):
            return f"not checked while {need!r} does not hold"
        try:
            return known[name].check(subject)
        except Exception as error:  # whatever the code under test raises
            return error

    def unmet(name: str) -> str:
        """Return the first law that this one rests on, through others or not, and that does not hold."""
        failed = (need if isinstance(outcome(need), Exception) else unmet(need) for need in known[name].needs)
        return next(filter(None, failed), "")

    def check(name: str) -> str | None:
        found = outcome(name)
        if isinstance(found, Exception):
            raise found.with_traceback(None)
        return found

    return Laws(title, tuple(Law(each.name, each.statement, functools.partial(check, each.name)) for each in rules))


def crashed(call: Callable[[], Any], *, expected: str, cause: str) -> Any:
    """Return what a call returns, or say what it should have done.

    Args:
        call: Code under test.
        expected: What the law says.
        cause: The usual cause.

    Raises:
        BrokenError: It raised.
    """
    try:
        return call()
    except Exception as error:
        raise BrokenError(expected, f"{type(error).__name__}: {error}", cause) from error

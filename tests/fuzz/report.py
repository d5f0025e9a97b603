"""The counts of the cases by kind, and the failures with a command that repeats each."""

from __future__ import annotations

from collections.abc import Sequence

from tensorfact.common.table import Table
from tests.fuzz.case import PROBLEMS, Verdict


def counts(verdicts: Sequence[Verdict]) -> Table:
    """Return the table of counts: a row for each kind, and their sum."""
    kinds = dict.fromkeys(verdict.kind for verdict in verdicts)
    rows = [_row(kind, [verdict for verdict in verdicts if verdict.kind == kind]) for kind in kinds]
    return Table(("kind", "cases", "valid", "refused", *PROBLEMS), (*rows, _row("all", verdicts)))


def _row(name: str, verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    outcomes = [sum(verdict.outcome == outcome for verdict in verdicts) for outcome in ("valid", "refused")]
    problems = [sum(problem in verdict.problems for verdict in verdicts) for problem in PROBLEMS]
    return (name, *(f"{count:,}" for count in (len(verdicts), *outcomes, *problems)))


def failure(verdict: Verdict, seed: int) -> str:
    """Return a case with problems as text: place and message, the input, and the command that repeats it."""
    return (
        f"{', '.join(verdict.problems)}: {verdict.where}\n"
        f"    {verdict.what!r}\n"
        f"    python -m tests.fuzz --seed {seed} --kind {verdict.kind} --case {verdict.number}"
    )

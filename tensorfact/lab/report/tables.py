"""Tables of a sweep: Markdown and LaTeX with one column per task, CSV with one line per run."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from collections.abc import Callable, Iterable

from ...common.table import Table
from ...errors import printable
from ..sweep import SweepRow, task_group
from .names import task_label
from .summary import Mean, PartSummary, RowSummary, Summary

UNFINISHED, FAILED = "–", "failed"  # noqa: RUF001  an en dash
CSV_COLUMNS = (
    *("part", "row", "task", "group", "seed", "method"),
    *("scale", "lr", "parameters", "test_accuracy", "val_accuracy"),
)

_FORMULA = (*"=+-@", *"\uff1d\uff0b\uff0d\uff20")
"""Characters that start a formula in spreadsheets; the last four are the wide forms of the first four."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table.

    Args:
        heading: Heading of the column.
        group: Group of tasks that it belongs to; empty if none.
        value: Function from a row to its number in the column; None if it has none.
        text: Function from a row to the text of its cell.
        compared: Mark the largest value as the best.
        task: Index into the cells of a row; None if the column does not show a single task.
    """

    heading: str
    group: str
    value: Callable[[RowSummary], float | None]
    text: Callable[[RowSummary], str]
    compared: bool = True
    task: int | None = None

    def best(self, rows: Iterable[RowSummary]) -> str:
        """Return the largest value as printed, so that values printed alike tie; empty for fewer than two values."""
        found = [percent(value) for row in rows if (value := self.value(row)) is not None] if self.compared else []
        return max(found, key=float) if len(found) > 1 else ""

    def is_best(self, row: RowSummary, best: str) -> bool:
        """Return whether the value of a row is printed like the best."""
        return self.compared and self.value(row) is not None and percent(self.value(row)) == best


def count_text(count: float | None) -> str:
    """Format a number of parameters: in millions from 10,000 on.

    Examples:
        >>> count_text(294_912), count_text(970)
        ('0.295 M', '970')
    """
    if count is None:
        return UNFINISHED
    return f"{count / 1e6:.3f} M" if count >= 10_000 else f"{count:,.0f}"


def percent(value: float | None) -> str:
    """Format an accuracy, 0 to 1, in percent."""
    return UNFINISHED if value is None else f"{100 * value:.1f}"


def with_spread(mean: Mean | None) -> str:
    """Format a mean in percent, with its spread if it has one."""
    spread = "" if mean is None or mean.spread is None else f" ± {percent(mean.spread)}"
    return f"{percent(mean.mean if mean else None)}{spread}"


def columns_of(part: PartSummary) -> list[Column]:
    """Return the columns of a table: parameters, tasks by group, means, and the published numbers beside them."""
    rows = [row.row for row in part.rows]
    columns = [Column("parameters", "", lambda row: row.parameters, lambda row: count_text(row.parameters), False)]
    if any(row.parameters is not None for row in rows):
        columns += [_published(lambda row: row.parameters, count_text)]
    for group in part.groups:
        columns += [_task_column(at, task) for at, task in enumerate(part.tasks) if task_group(task) == group]
        columns += [_group_column(group)] if len(part.groups) > 1 else []
    columns += [_mean_column("", lambda row: row.accuracy)]
    if any(row.accuracy is not None for row in rows):
        columns += [_published(lambda row: row.accuracy, percent)]
    return columns


def full_heading(part: PartSummary, column: Column) -> str:
    """Return the heading of a column, with its group if the part has several groups."""
    grouped = column.group and len(part.groups) > 1
    return f"{column.heading} ({column.group})" if grouped else column.heading


def markdown(summary: Summary) -> str:
    """Return the tables of all parts in Markdown, the best value of each column in bold."""
    lines = [f"# {_plain(summary.results.sweep.name, MARKDOWN)}", "", summary.protocol, ""]
    for part in summary.parts:
        heads = [full_heading(part, each) for each in columns_of(part)]
        names = [_plain(row.row.label, MARKDOWN) for row in part.rows]
        rows = zip(names, _cells(part, "**{}**", str), strict=True)
        table = Table(
            ("method", *(_plain(head, MARKDOWN) for head in heads)), tuple((name, *cells) for name, cells in rows)
        )
        title = _plain(part.part.title, MARKDOWN) + (f" ({summary.note})" if summary.note else "")
        lines += [f"## {title}", "", str(table), ""]
    return "\n".join([*lines, _markdown_gaps(summary)]).rstrip() + "\n"


def table_csv(summary: Summary) -> str:
    """Return CSV with one line per reported run; a failed run has no accuracy.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for part in summary.parts:
        for row in part.rows:
            for cell in row.cells:
                where = (part.part.name, row.row.label, cell.task, task_group(cell.task))
                for run in cell.runs:
                    spec, out = run.spec, run.outcome
                    numbers = (out.parameters, None if out.failure else out.test_accuracy, out.val_accuracy)
                    writer.writerow(
                        map(_cell_text, [*where, spec.seed, out.method, spec.scale, spec.settings.lr, *numbers])
                    )
    return text.getvalue()


def _cell_text(value: object) -> object:
    """Return a value of CSV: numbers as they are, text on one line and never the start of a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def latex(summary: Summary) -> str:
    """Return one LaTeX `tabular` per part, for the package booktabs, the best value of each column in bold."""
    lines = ["% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}"]
    for part in summary.parts:
        columns = columns_of(part)
        spans = [(group, len(list(each))) for group, each in itertools.groupby(column.group for column in columns)]
        heads = " & ".join(f"\\multicolumn{{{width}}}{{c}}{{{_plain(group, LATEX)}}}" for group, width in spans)
        names = " & ".join(_plain(column.heading, LATEX) for column in columns)
        note = f"{summary.note.capitalize()}." if summary.note else ""
        cells = _cells(part, "\\textbf{{{}}}", lambda text: _plain(text, LATEX))
        lines += [
            "",
            f"% {_plain(part.part.title, LATEX)}",
            f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
            "\\toprule",
            f" & {heads} \\\\",
            f"method & {names} \\\\",
            "\\midrule",
            *(
                " & ".join([_plain(row.row.label, LATEX), *each]) + " \\\\"
                for row, each in zip(part.rows, cells, strict=True)
            ),
            "\\bottomrule",
            *([f"\\multicolumn{{{1 + len(columns)}}}{{l}}{{{note}}} \\\\"] if note else []),
            "\\end{tabular}",
        ]
    return "\n".join(lines) + "\n"


MARKDOWN = {mark: f"\\{mark}" for mark in "\\`*_[]<>|&$~#"}
LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "\\textquotedbl{}",
    "±": "$\\pm$",
    "–": "--",  # noqa: RUF001
}
"""Escapes of characters with a special meaning in LaTeX."""


def _plain(text: str, marks: dict[str, str]) -> str:
    """Escape a text, and put it on one line."""
    return "".join(marks.get(letter, letter) for letter in " ".join(text.split()))


def _task_column(at: int, task: str) -> Column:
    def value(row: RowSummary) -> float | None:
        accuracy = row.cells[at].accuracy
        return accuracy.mean if accuracy else None

    def text(row: RowSummary) -> str:
        return FAILED if row.cells[at].state == "failed" else percent(value(row))

    return Column(task_label(task), task_group(task), value, text, task=at)


def _group_column(group: str) -> Column:
    return _mean_column(group, lambda row: row.groups[group])


def _mean_column(group: str, mean: Callable[[RowSummary], Mean | None]) -> Column:
    def value(row: RowSummary) -> float | None:
        found = mean(row)
        return found.mean if found else None

    def text(row: RowSummary) -> str:
        return percent(value(row)) if group else with_spread(mean(row))

    return Column("mean" if group else "overall mean", group, value, text)


def _published(value: Callable[[SweepRow], float | None], text: Callable[[float | None], str]) -> Column:
    """Return a column of published numbers, empty for rows without one."""

    def shown(row: RowSummary) -> str:
        return "" if value(row.row) is None else text(value(row.row))

    return Column("published", "", lambda row: value(row.row), shown, compared=False)


def _cells(part: PartSummary, form: str, write: Callable[[str], str]) -> list[list[str]]:
    """Return the texts of all cells by row; `form` formats the best of each column."""
    columns = columns_of(part)
    best = [column.best(part.rows) for column in columns]

    def cell(column: Column, row: RowSummary, best: str) -> str:
        text = write(column.text(row))
        return form.format(text) if column.is_best(row, best) else text

    return [[cell(column, row, text) for column, text in zip(columns, best, strict=True)] for row in part.rows]


def _markdown_gaps(summary: Summary) -> str:
    """List the cells without a number, with the reason."""
    gaps = [f"{part.part.title}: {row.row.label} on {c.task}: {c.why}" for part, row, c in summary.cells("failed")]
    for part in summary.parts:
        for row in part.rows:
            tasks = [cell.task for cell in row.cells if cell.state == "unfinished"]
            where = "any task" if len(tasks) == len(row.cells) > 1 else ", ".join(tasks)
            gaps += [f"{part.part.title}: {row.row.label} is not finished on {where}"] if tasks else []
    return "\n".join(["## Without a number", "", *(f"- {_plain(gap, MARKDOWN)}" for gap in gaps)]) if gaps else ""

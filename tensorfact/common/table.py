"""What is printed: tables as aligned Markdown, and numbers of things."""

from __future__ import annotations

import dataclasses
import unicodedata


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number of things in words.

    Args:
        number: The number.
        one: The name of one of them.
        several: The name of several; default: with an s.

    Examples:
        >>> counted(1, "class", "classes"), counted(1200, "image")
        ('1 class', '1,200 images')
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def scaled(number: int, unit: str) -> str:
    """Return a large number in thousands, millions or billions of a unit, with three digits.

    Args:
        number: The number.
        unit: The unit.

    Examples:
        >>> scaled(1_039_000_000, "B"), scaled(450, "FLOP")
        ('1.04 GB', '450 FLOP')
    """
    power = next((p for p, most in enumerate((999.5, 999.5e3, 999.5e6, 999.5e9)) if number < most), 4)
    value = number / 1000**power
    digits = 0 if not power or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{digits}f} {('', 'k', 'M', 'G', 'T')[power]}{unit}"


def display_width(text: str) -> int:
    """Return the number of columns that a text takes in a terminal: two for a wide character, none for an accent.

    Args:
        text: One line.

    Examples:
        >>> display_width("cat"), display_width("猫"), display_width("e\N{COMBINING ACUTE ACCENT}")
        (3, 2, 1)
    """
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of strings; `str` gives aligned Markdown, in which a `|` of a cell is escaped.

    Args:
        headers: Column names.
        rows: One tuple of cells per row, as long as `headers`.

    Examples:
        >>> print(Table(("format", "count"), (("tt", "8,448"),)))
        | format | count |
        | ------ | ----- |
        | tt     | 8,448 |
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        cells = [[cell.replace("|", r"\|") for cell in row] for row in (self.headers, *self.rows)]
        widths = [max(display_width(row[column]) for row in cells) for column in range(len(self.headers))]
        lines = [cells[0], ["-" * width for width in widths], *cells[1:]]
        padded = (
            [cell + " " * (width - display_width(cell)) for cell, width in zip(row, widths, strict=True)]
            for row in lines
        )
        return "\n".join(f"| {' | '.join(row)} |" for row in padded)

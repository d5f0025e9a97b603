"""Write SVG: a canvas of lines, shapes and labels that tracks its bounds, with styles for light and dark pages."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

Point = tuple[float, float]

TEXT, SMALL, HEADING = 12.0, 11.0, 14.0
"""Font sizes: names and labels; sizes and legends; titles."""

MARGIN = 16.0

_STYLE = """
.tf-text{font-family:system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#64707f}
.tf-muted{fill:#74808e}.tf-bold{font-weight:600}.tf-on{fill:#fff}
.tf-line{stroke:#7a8594;stroke-width:1.6;fill:none;stroke-linecap:round}
.tf-node{fill:#5f6f86;stroke:#5f6f86;stroke-width:1.8}
.tf-hollow{fill:none;stroke:#5f6f86;stroke-width:1.8}
.tf-frozen{fill:#8b95a3;fill-opacity:.22;stroke:#7a8594;stroke-width:1.6;stroke-dasharray:4 3}
.tf-frozen.tf-hollow{fill:none}
.tf-dot{fill:#5f6f86}
.tf-in-line{stroke:#1777b8;stroke-width:2}.tf-in-fill{fill:#1777b8}
.tf-out-line{stroke:#c8590b;stroke-width:2}.tf-out-fill{fill:#c8590b}
.tf-stack-line{stroke:#0a8563;stroke-width:2}.tf-stack-fill{fill:#0a8563}
@media (prefers-color-scheme:dark){
.tf-text{fill:#c3ccd7}.tf-muted{fill:#98a3b1}.tf-on{fill:#fff}
.tf-line{stroke:#8d98a7}
.tf-node{stroke:#66768e;fill:#66768e}.tf-hollow{fill:none;stroke:#9aa8bb}.tf-frozen{stroke:#8d98a7}.tf-dot{fill:#9aa8bb}
.tf-in-line{stroke:#56b4e9}.tf-in-fill{fill:#56b4e9}
.tf-out-line{stroke:#f0883e}.tf-out-fill{fill:#f0883e}
.tf-stack-line{stroke:#2ec4a0}.tf-stack-fill{fill:#2ec4a0}
}
"""
"""Styles by class. The light colours are also readable on dark pages that do not declare a colour scheme."""

_NARROW, _WIDE = frozenset("iljtfrI.,:;|!'()[]{}/ -1"), frozenset("mwMW@%&")


def text_width(text: str, size: float = TEXT) -> float:
    """Estimate the width of a text from above, for common sans-serif fonts.

    Args:
        text: A single line.
        size: Font size.

    Examples:
        >>> text_width("iii") < text_width("nnn") < text_width("MMM")
        True
    """
    return size * sum(map(_advance, text))


def _advance(letter: str) -> float:
    if ord(letter) >= 0x2E80:
        return 1.05
    if letter in _WIDE:
        return 0.98
    if letter in _NARROW:
        return 0.64 if letter == "1" else 0.42
    return 0.74 if letter.isupper() else 0.64


@dataclasses.dataclass(frozen=True)
class Box:
    """An axis-aligned rectangle; y grows downwards.

    Args:
        left: Smallest x.
        top: Smallest y.
        right: Largest x.
        bottom: Largest y.
    """

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> Box:
        """Return the box with a given centre and size."""
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    def overlaps(self, other: Box) -> bool:
        """Return whether two boxes overlap."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def meets(self, start: Point, end: Point) -> bool:
        """Return whether a line segment passes through the box (Liang & Barsky 1984)."""
        low, high = 0.0, 1.0
        for from_, to, least, most in (
            (start[0], end[0], self.left, self.right),
            (start[1], end[1], self.top, self.bottom),
        ):
            step = to - from_
            if abs(step) < 1e-9:
                if not least < from_ < most:
                    return False
                continue
            enter, leave = sorted(((least - from_) / step, (most - from_) / step))
            low, high = max(low, enter), min(high, leave)
        return low < high

    def union(self, other: Box) -> Box:
        """Return the smallest box that contains both."""
        return Box(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )


def text_box(x: float, y: float, text: str, size: float = TEXT, anchor: str = "middle") -> Box:
    """Return the bounding box of a text.

    Args:
        x: Position of the anchor.
        y: Vertical middle.
        text: A single line.
        size: Font size.
        anchor: Part of the text at `x`: `start`, `middle` or `end`.
    """
    width = text_width(text, size)
    left = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
    return Box(left, y - 0.6 * size, left + width, y + 0.6 * size)


class Canvas:
    """The elements of a picture in painting order, and their bounding box.

    Examples:
        >>> canvas = Canvas()
        >>> canvas.text(0, 0, "a < b")
        >>> "a &lt; b" in canvas.svg("order")
        True
    """

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._bounds: Box | None = None

    @property
    def bounds(self) -> Box:
        """The bounding box of all elements."""
        return self._bounds or Box(0.0, 0.0, 0.0, 0.0)

    def path(self, points: Sequence[Point], style: str, data: str | None = None) -> None:
        """Add a line through points.

        Args:
            points: The points, which also set its bounding box.
            style: Space-separated style classes.
            data: SVG path data to draw instead of straight segments.
        """
        data = data or "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        xs, ys = [x for x, _ in points], [y for _, y in points]
        self._grow(Box(min(xs), min(ys), max(xs), max(ys)))
        self.parts.append(f'<path class="{style}" d="{data}"/>')

    def pill(self, x: float, y: float, width: float, height: float, style: str) -> None:
        """Add a shape with round ends around a centre; a circle if width and height are equal."""
        self.rect(Box.around(x, y, width, height), style, min(width, height) / 2)

    def rect(self, box: Box, style: str, radius: float = 0.0, fill: str = "") -> None:
        """Add a rectangle with rounded corners; `fill` is the colour if the style sets none."""
        self._grow(box)
        size = f'width="{_n(box.right - box.left)}" height="{_n(box.bottom - box.top)}"'
        colour = f' fill="{fill}"' if fill else ""
        self.parts.append(
            f'<rect class="{style}" x="{_n(box.left)}" y="{_n(box.top)}" {size} rx="{_n(radius)}"{colour}/>'
        )

    def dot(self, x: float, y: float, radius: float, style: str) -> None:
        """Add a small circle."""
        self._grow(Box.around(x, y, 2 * radius, 2 * radius))
        self.parts.append(f'<circle class="{style}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"/>')

    def text(
        self,
        x: float,
        y: float,
        text: str,
        style: str = "",
        size: float = TEXT,
        anchor: str = "middle",
        upright: bool = False,
    ) -> None:
        """Add a line of text.

        Args:
            x: Position of the anchor.
            y: Vertical middle.
            text: A single line.
            style: Space-separated style classes in addition to `tf-text`.
            size: Font size.
            anchor: Part of the text at `x`: `start`, `middle` or `end`.
            upright: Rotate the text by 90 degrees about its anchor, to read upwards.
        """
        box, turned = text_box(x, y, text, size, anchor), ""
        if upright:
            box = Box(x + box.top - y, y - (box.right - x), x + box.bottom - y, y - (box.left - x))
            turned = f' transform="rotate(-90 {_n(x)} {_n(y)})"'
        self._grow(box)
        classes = f"tf-text {style}".strip()
        place = f'x="{_n(x)}" y="{_n(y + 0.35 * size)}" font-size="{_n(size)}" text-anchor="{anchor}"{turned}'
        self.parts.append(f'<text class="{classes}" {place}>{escape(_plain(text))}</text>')

    def svg(self, title: str) -> str:
        """Return the picture as the text of an SVG file.

        Args:
            title: Description of the picture for screen readers.
        """
        bounds = self.bounds
        left, top = math.floor(bounds.left - MARGIN), math.floor(bounds.top - MARGIN)
        width, height = math.ceil(bounds.right + MARGIN) - left, math.ceil(bounds.bottom + MARGIN) - top
        view = f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}"'
        label = quoteattr(_plain(title))
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {view} role="img" aria-label={label}>'
        body = [head, f"<title>{escape(_plain(title))}</title>", f"<style>{_STYLE}</style>", *self.parts, "</svg>"]
        return "\n".join(body) + "\n"

    def _grow(self, box: Box) -> None:
        self._bounds = box if self._bounds is None else self._bounds.union(box)


def apart(wanted: Sequence[float], widths: Sequence[float], gap: float, weights: Sequence[float] = ()) -> list[float]:
    """Move overlapping intervals apart with the smallest squared shift, by pooling adjacent violators.

    Args:
        wanted: Preferred centres.
        widths: Widths of the intervals.
        gap: Minimum gap between two intervals.
        weights: Weights of the squared shifts; by default all equal.

    Returns:
        The new centres, in the given order.

    Source: M. Ayer et al., Annals of Mathematical Statistics 1955.

    Examples:
        >>> apart([0, 0, 50], [10, 10, 10], 2)
        [-6.0, 6.0, 50.0]
    """
    order = sorted(range(len(wanted)), key=lambda at: (wanted[at], at))
    shifts: list[float] = []
    for before, at in zip([None, *order], order, strict=False):
        needed = 0.0 if before is None else (widths[before] + widths[at]) / 2 + gap
        shifts.append((shifts[-1] if shifts else 0.0) + needed)
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for at, shift in zip(order, shifts, strict=True):
        pool = (wanted[at] - shift, weights[at] if weights else 1.0, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, weight, members = pools.pop()
            total = weight + pool[1]
            pool = ((mean * weight + pool[0] * pool[1]) / total, total, members + pool[2])
        pools.append(pool)
    means = [mean for mean, _, members in pools for _ in range(members)]
    placed = dict(zip(order, (mean + shift for mean, shift in zip(means, shifts, strict=True)), strict=True))
    return [float(placed[at]) for at in range(len(wanted))]


def _n(number: float) -> str:
    return f"{round(number, 1) + 0.0:g}"  # + 0.0: no negative zero


def _plain(text: str) -> str:
    """Replace characters that XML does not allow."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)

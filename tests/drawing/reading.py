"""Parse pictures: their texts and boxes, and the properties of every picture."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

from tensorfact.drawing.svg import Box, text_box
from tensorfact.network import Core, Mode, Network

NAMESPACE = "{http://www.w3.org/2000/svg}"
IO = (Mode("in", 768, "in"), Mode("out", 768, "out"))


def parse(picture: str) -> ElementTree.Element:
    """Return the root of a picture, which must be well-formed."""
    return ElementTree.fromstring(picture)


def elements(root: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return list(root.iter(NAMESPACE + tag))


def texts(picture: str) -> list[str]:
    return [each.text or "" for each in elements(parse(picture), "text")]


def text_boxes(root: ElementTree.Element) -> list[Box]:
    """Return the boxes of all texts, from their estimated widths."""
    boxes = []
    for each in elements(root, "text"):
        x, y, size = (float(each.get(key, "nan")) for key in ("x", "y", "font-size"))
        box = text_box(x, y - 0.35 * size, each.text or "", size, each.get("text-anchor", ""))
        if each.get("transform"):  # by a quarter about the anchor
            box = Box(x + box.top - y, y - box.right + x, x + box.bottom - y, y - box.left + x)
        boxes.append(box)
    return boxes


def shapes(root: ElementTree.Element) -> list[Box]:
    """Return the boxes of all nodes, dots, cells and lines."""
    found = [
        Box(x, y, x + width, y + height)
        for each in elements(root, "rect")
        for x, y, width, height in [[float(each.get(key, "nan")) for key in ("x", "y", "width", "height")]]
    ]
    for each in elements(root, "circle"):
        x, y, r = (float(each.get(key, "nan")) for key in ("cx", "cy", "r"))
        found.append(Box.around(x, y, 2 * r, 2 * r))
    for each in elements(root, "path"):
        pairs = re.findall(r"(-?[\d.]+) (-?[\d.]+)", each.get("d", ""))
        found += [Box.around(float(x), float(y), 0, 0) for x, y in pairs]
    return found


def nodes(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [each for each in elements(root, "rect") if each.get("class") != "tf-cell"]


def check(picture: str) -> ElementTree.Element:
    """Check the properties of every picture."""
    root = parse(picture)
    assert root.get("role") == "img"
    assert (elements(root, "title")[0].text or "").strip()
    left, top, width, height = map(float, root.get("viewBox", "").split())
    written = text_boxes(root)
    for box in (*written, *shapes(root)):
        assert left <= box.left <= box.right <= left + width
        assert top <= box.top <= box.bottom <= top + height
    for one, other in itertools.combinations(written, 2):
        assert not one.overlaps(other)
    return root


def network(text: str, output: str, zero: str = "", frozen: str = "") -> Network:
    """Return a network written as `A[in r] B[r out]`."""
    cores = [Core(name, tuple(legs.split())) for name, legs in re.findall(r"(\S+)\[(.*?)\]", text)]
    sizes = {leg: 8 * (len(leg) + 1) for core in cores for leg in core.legs}
    starts = {zero: "zero"} if zero else {}
    return Network(tuple(cores), tuple(output.split()), sizes).started(starts, frozen.split())

"""Odd values, and JSON data with some of its values changed."""

from __future__ import annotations

import copy
import json
import math
from random import Random
from typing import Any

DEEP, DIGITS = "@deep@", "@digits@"
"""Strings in whose place `dumped` writes 20,000 nested lists, and an integer of 5,000 digits."""

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 255, 2**31, 2**53, 2**63, 2**64, 10**30, -(2**63), 0.0, -0.0, 0.5, 1e-320),
    *(1e30, 1e308, -1e308, math.nan, math.inf, -math.inf, "", " ", "a", "full", "x" * 3000, "\0", "\ud800", "é\n", "1"),
    *("{layer}", "(", "a.b", "../..", "weight", [], {}, [[]], [0], [None], [[[0, 1], "a"]], {"": 0}, {"name": "tt"}),
    *({"name": "cp", "rank": 10**18}, ["a"] * 500, {str(n): n for n in range(200)}, DEEP, DIGITS),
)
"""Values that JSON data may hold where another is expected."""


def odd(rng: Random) -> Any:
    """Return an odd value."""
    return copy.deepcopy(rng.choice(ODD))


def mutated(rng: Random, data: Any, times: int = 1) -> Any:
    """Return JSON data with some places changed: to an odd value, to one like it, or to one from another place."""
    root = [copy.deepcopy(data)]
    for _ in range(times):
        places = list(_places(root))
        parent, key = rng.choice(places)
        if isinstance(parent, dict) and rng.random() < 0.2:
            _rename(rng, parent, key)
            continue
        way = rng.random()
        if way < 0.45:
            parent[key] = odd(rng)
        elif way < 0.8:
            parent[key] = _alike(rng, parent[key])
        else:
            other, name = rng.choice(places)
            parent[key] = copy.deepcopy(other[name])
    return root[0]


def dumped(data: Any) -> str:
    """Return JSON text, with the two values that `json.dumps` cannot write."""
    text = json.dumps(data)
    deep, digits = "[" * 20_000 + "]" * 20_000, "7" * 5_000
    return text.replace(f'"{DEEP}"', deep).replace(f'"{DIGITS}"', digits)


def garbled(rng: Random, raw: bytes) -> bytes:
    """Return bytes that are flipped, cut, doubled or overwritten at a few places."""
    found = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(found) + 1), rng.randint(1, 40)
        way = rng.randrange(5)
        if way == 0 and found:
            found[at % len(found)] ^= 1 << rng.randrange(8)
        elif way == 1:
            del found[at : at + rng.choice((length, len(found)))]
        elif way == 2:
            found[at:at] = found[at : at + length]
        elif way == 3:
            found[at : at + length] = rng.randbytes(length)
        else:
            found[at : at + length] = rng.choice((b"\0", b"\xff", b"9", b"[", b'"')) * length
    return bytes(found)


def garbled_text(rng: Random, text: str, alphabet: str) -> str:
    """Return a text with a few characters changed, doubled or left out."""
    found = list(text)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(found) + 1), rng.randint(0, 4)
        new = "".join(rng.choices(alphabet, k=rng.randint(0, 3)))
        found[at : at + length] = rng.choice((new, new, "".join(found[at : at + length]) * rng.choice((2, 2, 300))))
    return "".join(found)


def _places(data: Any) -> list[tuple[Any, Any]]:
    """Return every place in JSON data as a container and a key."""
    found: list[tuple[Any, Any]] = []
    waiting = [data]
    while waiting:
        each = waiting.pop()
        keys = list(each) if isinstance(each, dict) else range(len(each))
        found += [(each, key) for key in keys]
        waiting += [each[key] for key in keys if isinstance(each[key], (dict, list))]
    return found


def _rename(rng: Random, parent: dict[str, Any], key: str) -> None:
    """Leave a key out, or give it another name."""
    value = parent.pop(key)
    name = rng.choice(("", f"{key}x", key.upper(), key[:-1], "a.b", "\0", "name", "extra"))
    if rng.random() < 0.6:
        parent[name] = value


def _alike(rng: Random, value: Any) -> Any:
    """Return a value of the same type, or one that is easily taken for it."""
    if isinstance(value, bool) or value is None:
        return rng.choice((not value, int(bool(value)), str(value)))
    if isinstance(value, (int, float)):
        return rng.choice((value + 1, value - 1, -value, 2 * value, value * 10**6, str(value), [value], value + 0.5))
    if isinstance(value, str):
        parts = (value + value, value[1:], value.upper(), f"{value}.", [value], f"({value})", f"{value} {value}")
        return rng.choice((*parts, value.replace(".", ""), value.replace("{", "{{"), {value: value}))
    if isinstance(value, list):
        return rng.choice((value[::-1], value + value, value[1:], value * 50, dict(enumerate(value)), [value]))
    return rng.choice(([value], list(value), {**value, "extra": 0}, {}))

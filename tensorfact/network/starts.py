"""What a core starts from: a word, and for some a number, as in `normal`, `normal:0.5` and `constant:0.1`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import NetworkError, nearest

ZERO, GIVEN = "zero", "given"

_Draw = Callable[[tuple[int, ...], float, torch.Generator | None], Tensor]
"""Shape, size, source of random numbers -> values in fp32 on the CPU."""


def _normal(shape: tuple[int, ...], size: float, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu") * size


def _uniform(shape: tuple[int, ...], size: float, generator: torch.Generator | None) -> Tensor:
    return (torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") * 2 - 1) * size


def _orthogonal(shape: tuple[int, ...], size: float, generator: torch.Generator | None) -> Tensor:
    flat = torch.empty(_matrix(shape), dtype=torch.float32, device="cpu")
    return torch.nn.init.orthogonal_(flat, size, generator=generator).reshape(shape)


def _xavier(shape: tuple[int, ...], size: float, generator: torch.Generator | None) -> Tensor:
    flat = torch.empty(_matrix(shape), dtype=torch.float32, device="cpu")
    return torch.nn.init.xavier_uniform_(flat, size, generator=generator).reshape(shape)


def _constant(shape: tuple[int, ...], size: float, generator: torch.Generator | None) -> Tensor:
    return torch.full(shape, size, dtype=torch.float32, device="cpu")


_DRAWS: dict[str, tuple[_Draw, Callable[[float], float]]] = {
    "normal": (_normal, lambda deviation: deviation),
    "uniform": (_uniform, lambda deviation: math.sqrt(3) * deviation),  # of the same variance
    "orthogonal": (_orthogonal, lambda _: 1.0),
    "xavier": (_xavier, lambda _: 1.0),
    "constant": (_constant, lambda _: 1.0),
    ZERO: (_constant, lambda _: 0.0),
    GIVEN: (_constant, lambda _: 0.0),
}
"""How each start is drawn, and its size where the start names none: a function of the deviation that keeps variance."""


def check_start(start: object, owner: str) -> str:
    """Return a start that can be drawn.

    Args:
        start: `zero`; `normal` or `uniform`, of the variance that keeps a signal's, or `normal:DEVIATION` and
            `uniform:BOUND`; `orthogonal` or `xavier` of the core as a matrix (all legs but the last, last), or with
            `:GAIN`; `constant:VALUE`; `given`, by the format.
        owner: Whose start it is, for messages.

    Raises:
        NetworkError: It is none of these.

    Examples:
        >>> check_start("normal:0.5", "U")
        'normal:0.5'
    """
    word, colon, size = start.partition(":") if isinstance(start, str) else ("", "", "")
    try:
        number = float(size) if colon else 1.0  # 0 would be a second zero, which keeps all cores from learning
        known = word in _DRAWS and math.isfinite(number) and bool(number) and not (colon and word in (ZERO, GIVEN))
    except ValueError:
        known = False
    if not known:
        raise NetworkError(
            f"{owner}: start",
            expected=f"one of {', '.join(_DRAWS)}, or with a number, as in 'normal:0.5'",
            got=f"{start!r}{nearest(word, _DRAWS)}",
        )
    return str(start)


def drawn(
    start: str, shape: Sequence[int], deviation: float, generator: torch.Generator | None, given: Tensor | None = None
) -> Tensor:
    """Return a core's first values, in fp32 on the CPU.

    Args:
        start: What it starts from.
        shape: Its shape.
        deviation: The standard deviation that keeps the variance of what it is applied to.
        generator: The source of random numbers; torch's own by default.
        given: The values, where the format gives them.

    Examples:
        >>> drawn("constant:0.5", (2,), 1.0, None)
        tensor([0.5000, 0.5000])
    """
    if start == GIVEN:
        assert given is not None
        return given.to("cpu", torch.float32)
    word, _, size = start.partition(":")
    draw, by_default = _DRAWS[word]
    return draw(tuple(shape), float(size) if size else by_default(deviation), generator)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return math.prod(shape[:-1]), math.prod(shape[-1:])

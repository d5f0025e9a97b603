"""Initialisations of a core, written as text: `normal`, `normal:0.5`, `constant:0.1`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..common.checks import quoted
from ..errors import NetworkError, nearest

ZERO, GIVEN = "zero", "given"

_Draw = Callable[[tuple[int, ...], float, torch.Generator | None], Tensor]
"""(shape, size, generator) -> initial values in fp32 on the CPU."""


def _normal(shape: tuple[int, ...], size: float, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu") * size


def _uniform(shape: tuple[int, ...], size: float, generator: torch.Generator | None) -> Tensor:
    return (torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") * 2 - 1) * size


def _linear(shape: tuple[int, ...], size: float, generator: torch.Generator | None) -> Tensor:
    return _uniform(shape, size / math.sqrt(shape[0]), generator)


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
    "uniform": (_uniform, lambda deviation: math.sqrt(3) * deviation),  # same variance as normal
    "linear": (_linear, lambda _: 1.0),
    "orthogonal": (_orthogonal, lambda _: 1.0),
    "xavier": (_xavier, lambda _: 1.0),
    "constant": (_constant, lambda _: 1.0),
    ZERO: (_constant, lambda _: 0.0),
    GIVEN: (_constant, lambda _: 0.0),
}
"""For each start, how it is drawn, and its default size as a function of the variance-preserving deviation."""


def check_start(start: object, owner: str) -> str:
    """Check that a start is valid, and return it.

    Args:
        start: `zero`; `normal` or `uniform` (variance-preserving), `normal:DEVIATION` or `uniform:BOUND`;
            `linear`, uniform with the bound 1 / sqrt(size of the first leg), as `torch.nn.Linear` has it, optionally
            with `:GAIN`;
            `orthogonal` or `xavier` of the core as a matrix (all legs but the last, last), optionally with `:GAIN`;
            `constant` or `constant:VALUE`; `given` for a core whose values come from the format.
        owner: What the start belongs to, such as `core 'U'`, for messages.

    Raises:
        NetworkError: The start is not one of these.

    Examples:
        >>> check_start("normal:0.5", "U")
        'normal:0.5'
    """
    word, colon, size = start.partition(":") if isinstance(start, str) else ("", "", "")
    try:
        number = float(size) if colon else 1.0  # 0 is refused: with a second zero core all gradients would be zero
        known = word in _DRAWS and math.isfinite(number) and bool(number) and not (colon and word in (ZERO, GIVEN))
    except ValueError:
        known = False
    if not known:
        raise NetworkError(
            f"{owner}: start",
            expected=f"one of {', '.join(_DRAWS)}, or one with a nonzero number, such as 'normal:0.5'",
            got=f"{quoted(start)}{nearest(word, _DRAWS)}",
            fix="start='normal'",
        )
    return str(start)


def drawn(
    start: str, shape: Sequence[int], deviation: float, generator: torch.Generator | None, given: Tensor | None = None
) -> Tensor:
    """Draw the initial values of a core, in fp32 on the CPU.

    Args:
        start: A start, as in `check_start`.
        shape: Shape of the core.
        deviation: The standard deviation that preserves the variance of the core's input.
        generator: A CPU generator; default: torch's global one.
        given: The values of a core that starts `given`.

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

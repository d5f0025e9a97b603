"""Draw a network, a format on given modes, or a resolved plan."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ..common.checks import quoted
from ..errors import FormatError, NetworkError
from ..formats import Format
from ..network import Mode, Network
from ..plan import ResolvedPlan
from .networks import network_diagram
from .plans import plan_diagram


def draw(subject: Network | Format | ResolvedPlan, modes: Sequence[Mode] = (), title: str = "") -> str:
    """Draw a network or a format in Penrose notation, or how a plan folds parameters into tensors.

    Args:
        subject: A network; a format, which needs `modes`; or a resolved plan.
        modes: The tensor's modes; their sides set the colours of the open legs.
        title: A title above the picture of a network or a format.

    Returns:
        The text of an SVG file, for light and dark pages.

    Raises:
        NetworkError: The subject has another type, or `modes` is not a tuple of modes.
        FormatError: A format without modes, or modes that do not suit it.

    Examples:
        >>> from tensorfact import TensorTrain, plan_for
        >>> from tensorfact.lab import nano
        >>> from tensorfact.network import Mode
        >>> draw(TensorTrain(4), (Mode("in", 64, "in"), Mode("out", 64, "out")))[:4]
        '<svg'
        >>> draw(plan_for(nano()).resolve(nano()))[:4]
        '<svg'
    """
    given: object = modes
    if not isinstance(given, (tuple, list)) or not all(isinstance(mode, Mode) for mode in given):
        raise NetworkError(
            "draw: modes",
            expected="a tuple of Mode objects",
            got=quoted(given),
            fix="draw(format, plan.resolve(model).tensors[0].modes)",
        )
    return _draw(subject, tuple(modes), title)


@functools.singledispatch
def _draw(subject: object, modes: tuple[Mode, ...], title: str) -> str:
    raise NetworkError(
        "draw",
        expected="a Network, a Format with modes, or a ResolvedPlan",
        got=type(subject).__name__,
        fix="draw(format, modes), or draw(plan.resolve(model))",
    )


@_draw.register
def _(subject: Network, modes: tuple[Mode, ...], title: str) -> str:
    return network_diagram(subject, modes, title)


@_draw.register
def _(subject: Format, modes: tuple[Mode, ...], title: str) -> str:
    if not modes:
        raise FormatError(
            f"draw: {subject} needs modes",
            fix="draw(format, plan.resolve(model).tensors[0].modes)",
        )
    return network_diagram(subject.network(modes), modes, title)


@_draw.register
def _(subject: ResolvedPlan, modes: tuple[Mode, ...], title: str) -> str:
    return plan_diagram(subject)

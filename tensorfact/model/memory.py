"""Parameters that share memory without being one parameter."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from torch import Tensor, nn

from ..errors import AdaptError
from .parameters import own_parameters


def refuse_shared_memory(model: nn.Module, names: Iterable[str]) -> None:
    """Raise if an adapted parameter shares memory with another parameter of the model.

    A tied weight is one `Parameter` under two names. Two parameters over one memory, as `b.data = a.data` makes them,
    would each get an increment of their own and be merged into the same numbers. Parameters that lie side by side in
    one buffer share none.

    Args:
        model: The model.
        names: The parameters to adapt.

    Raises:
        AdaptError: One of them overlaps with another parameter, or with itself, as a view made by `expand` does.
    """
    adapted = set(names)
    spans = sorted((*span, name) for name, parameter in own_parameters(model).items() if (span := _span(parameter)))
    starts = [start for start, _, _ in spans]
    longest = max((end - start for start, end, _ in spans), default=0)
    for start, end, name in spans:
        if name not in adapted:
            continue
        first, last = bisect.bisect_right(starts, start - longest), bisect.bisect_left(starts, end)
        for other_start, other_end, other in spans[first:last]:
            if other != name and other_start < end and start < other_end:
                raise AdaptError(
                    f"{name!r} and {other!r} are two parameters that share memory",
                    cause="they were tied through .data",
                    fix=f"tie them as one parameter: {_written(other)} = {_written(name)}, or clone one of them",
                )
    parameters = dict(model.named_parameters())
    for name in sorted(adapted):
        parameter = parameters.get(name)
        if parameter is not None and _repeats(parameter):
            raise AdaptError(
                f"{name!r} of shape {tuple(parameter.shape)} holds entries that share memory",
                cause="it is a view made by expand()",
                fix=f"{_written(name)} = nn.Parameter({_written(name)}.detach().clone())",
            )


def _written(name: str) -> str:
    """Return the Python expression of a parameter: `model.layers[0].weight`."""
    parts = (f"[{part}]" if part.isdigit() else f".{part}" for part in name.split("."))
    return f"model{''.join(parts)}"


def _span(parameter: Tensor) -> tuple[int, int] | None:
    """Return the first and the last byte of a parameter; None where its memory is not known."""
    if type(parameter) not in (Tensor, nn.Parameter) or parameter.is_meta or not parameter.numel():
        return None
    start = parameter.data_ptr()
    reach = sum((size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True))
    return start, start + (reach + 1) * parameter.element_size()


def _repeats(parameter: Tensor) -> bool:
    return any(size > 1 and stride == 0 for size, stride in zip(parameter.shape, parameter.stride(), strict=True))

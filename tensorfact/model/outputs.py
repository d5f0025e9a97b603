"""The outputs of a model as numbers, and a sample of them by which another model is noticed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from ..errors import AdaptError
from .example import known_example, observing
from .parameters import base_parameters

_SAMPLED = 16
"""The number of values in a sample."""

_DEVICES = 1e-2
"""The least tolerance: GPUs round the factors of 32-bit products to about 1e-3, and errors of layers add up."""


def numbers(output: object) -> Tensor:
    """Return all floating-point values of an output, a tensor or a container of tensors, as one vector.

    Args:
        output: The output.

    Raises:
        AdaptError: The output has no finite floating-point values.
    """
    found = [tensor.detach().double().flatten() for tensor in tensors_of(output) if tensor.is_floating_point()]
    row = torch.cat(found) if found else torch.empty(0)
    if not bool(row.isfinite().any()):
        raise AdaptError(
            "check: the model's output",
            expected="finite floating-point values in tensors, containers or dataclasses",
            got=f"{type(output).__name__} with {len(row)} floating-point values, none of them finite",
            fix="pass an example_input with a finite output",
        )
    return row


def tensors_of(output: object) -> Iterator[Tensor]:
    """Yield the tensors of an output: a tensor, or a mapping, list, tuple or dataclass of them.

    Args:
        output: The output.
    """
    if isinstance(output, Tensor):
        yield output
        return
    values: Iterable[object] = ()
    if isinstance(output, Mapping):
        values = output.values()
    elif isinstance(output, (list, tuple)):
        values = output
    elif dataclasses.is_dataclass(output):
        values = vars(output).values()
    for value in values:
        yield from tensors_of(value)


def apart(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference at finite expected values, as a fraction of the largest of these.

    Args:
        found: A vector.
        expected: A vector; of another length, the difference is infinite.
    """
    finite = expected.isfinite()
    if len(found) != len(expected):
        return math.inf
    difference = (found - expected)[finite].abs().nan_to_num(nan=math.inf)
    return float(difference.max()) / max(float(expected[finite].abs().max()), 1e-30)


def tolerance_of(model: nn.Module) -> float:
    """Return the tolerance for comparing two exact routes through a model: the square root of its machine epsilon.

    Args:
        model: The model.
    """
    dtypes = {p.dtype for p in base_parameters(model).values() if p.is_floating_point()}
    return math.sqrt(max(torch.finfo(dtype).eps for dtype in dtypes))


@dataclasses.dataclass(frozen=True)
class OutputSample:
    """Some values of a model's output for its example input.

    Args:
        values: The values, evenly spaced over the output.
        tolerance: The largest difference that rounding explains, as a fraction of the largest value.
    """

    values: tuple[float, ...]
    tolerance: float

    def __post_init__(self) -> None:
        try:
            values, tolerance = tuple(map(float, self.values)), float(self.tolerance)
        except (TypeError, ValueError, OverflowError):
            values, tolerance = (), 0.0
        if not values or not all(map(math.isfinite, (*values, tolerance))):
            raise TypeError("a sample of an output that is not made of finite numbers")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "tolerance", tolerance)

    def difference(self, model: nn.Module) -> float:
        """Return how far a model's outputs are from these, as a fraction of the largest; 0 if it cannot be said.

        It cannot be said of a model whose output for one input varies, or which does not run on its example input.

        Args:
            model: The model; it is left as it was.
        """
        first, second = sample_output(model), sample_output(model)
        if first is None or second is None or _differ(first, second) > self.tolerance:
            return 0.0
        return _differ(first, self)


def _differ(found: OutputSample, expected: OutputSample) -> float:
    return apart(torch.tensor(found.values).double(), torch.tensor(expected.values).double())


def sample_output(model: nn.Module) -> OutputSample | None:
    """Return some values of a model's output; None if no example input is known, or the model does not run on it.

    Args:
        model: The model, which is evaluated; it is left as it was.
    """
    example = known_example(model)
    if example is None or _is_distributed(model):
        return None
    with observing(model):
        try:
            output = numbers(example.run(model))
            places = torch.linspace(0, len(output) - 1, min(_SAMPLED, len(output))).round().long()
            return OutputSample(tuple(output.cpu()[places].tolist()), max(tolerance_of(model), _DEVICES))
        except Exception:  # a model of somebody else may raise anything; outputs may be NaN
            return None


def _is_distributed(model: nn.Module) -> bool:
    """Return whether a forward pass waits for other processes, which may not be running one."""
    return any(hasattr(parameter, "device_mesh") for parameter in model.parameters())

"""Fingerprints of base weights: an adapter file is matched to its base model by them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import FingerprintError
from ..model.values import dense_values, strided_parts

_SAMPLES = 1024
_SUMS = 8
_FLOOR = 1e-2
"""Added to the root mean square of a tensor: of values that are much smaller, fp16 keeps few digits."""

_ROUNDINGS = 2
"""How many epsilons of the coarser dtype two sums of values of the same base may differ: about 12 deviations."""

_SIZES = 4
"""The same for the logarithms, as a multiple of what their rounding changes."""

_DIGITS = 6
_EXACT = 1e-4
_SMALL = 1e-3
_SIMPLE = 32
_CHUNK = 1 << 18
"""How many values are widened to fp64 at a time: 2 MiB stay in the processor's cache, and larger chunks take five times
as long."""


class AnyFingerprint(Protocol):
    """The fingerprint of a base model, of the present kind or of an older file."""

    def again(self, tensors: Mapping[str, Tensor], adapted: Collection[str]) -> AnyFingerprint:
        """Return the fingerprint of another base model, of the same kind.

        Args:
            tensors: The base model's tensors by name.
            adapted: Names of those that the adapter changes.
        """
        ...

    def difference(self, other: AnyFingerprint, *, others: bool = True) -> str:
        """Return what differs between two base models; empty if they are the same model.

        Args:
            other: The other model's fingerprint.
            others: Whether to compare the tensors that the plan does not cover.
        """
        ...

    def plain(self) -> object:
        """Return the fingerprint as JSON data, which `read_fingerprint` reads."""
        ...


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Random sums over all tensors of a base model, which a change of dtype hardly changes.

    Each tensor adds to 8 sums of its values, divided by their root mean square, with random signs; and to 8 sums of
    the logarithms of these root mean squares. The sums of the adapted tensors and of all others are apart.

    The precision that the values were once rounded to is read off the values. It cannot be read off a tensor of one or
    two values that became numbers of at most 5 binary digits: a base of nothing else seems to differ after bf16.

    Args:
        adapted: The sums over the adapted tensors, (16).
        others: The sums over all other tensors that the file does not store, (16).
        eps: The root mean square over all tensors of the machine epsilon that each was rounded to.
        loose: How many of these epsilons the rounding changes the logarithms of a part by: 1 / 2 for tensors of one
            value, and little for others, whose roundings cancel.

    Source: D. Achlioptas, Database-friendly random projections, JCSS 2003.

    Examples:
        >>> import torch
        >>> weights = {"fc.weight": torch.randn(64, 64), "norm.weight": torch.ones(64)}
        >>> mine = Fingerprint.of(weights, ["fc.weight"])
        >>> mine.difference(Fingerprint.of({n: w.half() for n, w in weights.items()}, ["fc.weight"]))
        ''
        >>> mine.difference(Fingerprint.of({**weights, "norm.weight": torch.ones(64) * 3}, ["fc.weight"]))
        'the weights that the plan does not cover'
    """

    adapted: tuple[float, ...]
    others: tuple[float, ...]
    eps: float
    loose: tuple[float, float]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], adapted: Collection[str], names: Collection[str] | None = None) -> Self:
        """Return the fingerprint of a base model.

        Args:
            tensors: The base model's tensors by name; each is read once, one after the other.
            adapted: Names of those that the adapter changes.
            names: Names of those to cover; by default all.

        Raises:
            FingerprintError: A tensor has no values, since it is on the meta device.
        """
        sketches: dict[bool, list[Tensor]] = {True: [], False: []}
        loose: dict[bool, list[float]] = {True: [], False: []}
        precisions: list[float] = []
        for name in sorted(tensors if names is None else names):
            tensor = _whole(name, tensors[name])
            if tensor.numel():
                sketches[name in adapted].append(_sketch(name, tensor))
                loose[name in adapted].append(_looseness(tensor))
                precisions.append(_precision(tensor))
        widths = _root_mean_square(loose[True]), _root_mean_square(loose[False])
        return cls(_summed(sketches[True]), _summed(sketches[False]), _root_mean_square(precisions), widths)

    @classmethod
    def read(cls, stored: Mapping[str, object]) -> Self:
        """Return the fingerprint that `plain` described.

        Args:
            stored: JSON data of a file.

        Raises:
            ValueError, TypeError, LookupError: It is not that of a fingerprint.
        """
        parts = [tuple(map(float, cast("Sequence[float]", stored[part]))) for part in ("adapted", "others")]
        if any(len(part) != 2 * _SUMS for part in parts):
            raise ValueError(f"fingerprint of {[len(part) for part in parts]} sums")
        one, two = map(float, cast("Sequence[float]", stored["loose"]))
        return cls(parts[0], parts[1], float(cast("float", stored["eps"])), (one, two))

    def again(self, tensors: Mapping[str, Tensor], adapted: Collection[str]) -> Fingerprint:
        """See `AnyFingerprint.again`."""
        return self.of(tensors, adapted)

    def difference(self, other: AnyFingerprint, *, others: bool = True) -> str:
        """See `AnyFingerprint.difference`."""
        if not isinstance(other, Fingerprint):
            return _OTHER_KIND
        eps = max(self.eps, other.eps)
        parts = [
            ("the adapted weights", self.adapted, other.adapted, max(self.loose[0], other.loose[0])),
            ("the weights that the plan does not cover", self.others, other.others, max(self.loose[1], other.loose[1])),
        ]
        differing = []
        for part, mine, theirs, loose in parts[: 1 + others]:
            values, sizes = max(_EXACT, _ROUNDINGS * eps), max(_EXACT, _SIZES * loose * eps)
            allowed = (*[values] * _SUMS, *[sizes] * _SUMS)
            if not all(abs(a - b) <= most for a, b, most in zip(mine, theirs, allowed, strict=True)):
                differing.append(part)
        return " and ".join(differing)

    def plain(self) -> object:
        """See `AnyFingerprint.plain`."""
        stored = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in stored.items()}

    def __str__(self) -> str:
        return hashlib.sha256(json.dumps(self.plain()).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class SampledFingerprint:
    """The fingerprint in an older file: a digest of samples of the adapted weights.

    Args:
        digest: As `sampled_digest` returns it.
    """

    digest: str

    def again(self, tensors: Mapping[str, Tensor], adapted: Collection[str]) -> SampledFingerprint:
        """See `AnyFingerprint.again`."""
        return SampledFingerprint(sampled_digest(tensors, adapted))

    def difference(self, other: AnyFingerprint, *, others: bool = True) -> str:
        """See `AnyFingerprint.difference`."""
        if not isinstance(other, SampledFingerprint):
            return _OTHER_KIND
        return "" if self == other else "the adapted weights"

    def plain(self) -> object:
        """See `AnyFingerprint.plain`."""
        return self.digest

    def __str__(self) -> str:
        return self.digest


_OTHER_KIND = "the kind of the fingerprint: one of the files is of an older version"


def read_fingerprint(stored: object) -> AnyFingerprint:
    """Return the fingerprint in a file's description.

    Args:
        stored: JSON data, as `plain` returns it.

    Raises:
        ValueError, TypeError, LookupError: It is not that of a fingerprint.
    """
    if isinstance(stored, str):
        return SampledFingerprint(stored)
    if isinstance(stored, Mapping):
        return Fingerprint.read(stored)
    raise TypeError(f"fingerprint of type {type(stored).__name__}")


def sampled_digest(parameters: Mapping[str, Tensor], names: Collection[str]) -> str:
    """Return a digest of names, shapes and up to 1,024 evenly spaced values of tensors, rounded to bf16.

    It takes milliseconds for a model of any size.

    Args:
        parameters: Tensors by name.
        names: Which of them to cover.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        parameter = dense_values(parameters[name].detach())
        values = _samples(parameter).to("cpu", torch.bfloat16)
        digest.update(repr((name, tuple(parameter.shape))).encode())
        digest.update(values.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _samples(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLES)][:_SAMPLES]


def _whole(name: str, tensor: Tensor) -> Tensor:
    """Return the values of a tensor, gathered if it is sharded and decoded if it is quantised."""
    if tensor.is_meta:
        raise FingerprintError(
            f"the base weight {name!r} is on the meta device and cannot be compared",
            cause="the model was created without weights, or its weights are offloaded",
            fix="load the model's weights first, or pass check_base=False",
        )
    tensor = tensor.detach()
    if type(tensor) is not Tensor:
        tensor = cast("Tensor", getattr(tensor, "full_tensor", tensor.dequantize)())
    tensor = strided_parts(tensor)[-1]  # the values, of a sparse tensor
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    if tensor.is_floating_point():
        return tensor if tensor.itemsize > 1 else tensor.float()  # torch does not compute with 8 bits
    return tensor.double()


def _sketch(name: str, tensor: Tensor) -> Tensor:
    """Return the 16 terms of one tensor, in fp64 on the CPU."""
    matrix = tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 1 else tensor.reshape(1, -1)
    rows, columns, own = _signs(name, *matrix.shape)
    device = torch.device("cpu") if matrix.device.type == "mps" else matrix.device  # which has no fp64
    total = torch.zeros(_SUMS, dtype=torch.float64, device=device)
    square = total.new_zeros(())
    columns = columns.to(device)
    step = max(1, _CHUNK // matrix.shape[1])
    for at in range(0, len(matrix), step):
        part = matrix[at : at + step].to(device, torch.float64).nan_to_num(0.0, 0.0, 0.0)
        total += ((part @ columns) * rows[at : at + step].to(device)).sum(0)
        square += part.square().sum()
    size = math.sqrt(float(square) / tensor.numel()) + _FLOOR
    return torch.cat([total.cpu() / (size * math.sqrt(tensor.numel())), own * math.log(size)])


def _signs(name: str, rows: int, columns: int) -> Iterator[Tensor]:
    """Yield random signs by a tensor's name: (rows, 8), (columns, 8) and (8), the same on every machine."""
    count = (rows + columns + 1) * _SUMS
    random = np.frombuffer(hashlib.shake_256(name.encode()).digest((count + 7) // 8), dtype=np.uint8)
    signs = torch.from_numpy(np.unpackbits(random)[:count]).double().mul_(2).sub_(1).reshape(-1, _SUMS)
    yield signs[:rows]
    yield signs[rows:-1]
    yield signs[-1]


def _summed(sketches: Sequence[Tensor]) -> tuple[float, ...]:
    if not sketches:
        return (0.0,) * 2 * _SUMS
    total = torch.stack(list(sketches)).sum(0) / math.sqrt(len(sketches))
    return tuple(round(value, _DIGITS) for value in total.tolist())


def _precision(tensor: Tensor) -> float:
    """Return the machine epsilon of the coarsest dtype that a tensor's values were rounded to.

    Weights that were in bf16 once have its precision in fp32 too. Numbers of at most 5 binary digits, such as 1 and
    0.5, tell nothing, and neither do tiny ones, which have few digits in fp16.
    """
    values, own = _samples(tensor), torch.finfo(tensor.dtype).eps
    if float(values.abs().max()) < _SMALL or _simple(values):
        return own
    narrow = [torch.finfo(dtype).eps for dtype in (torch.bfloat16, torch.float16) if _fits(values, dtype)]
    return max([own, *narrow])


def _looseness(tensor: Tensor) -> float:
    """Return how many epsilons a rounding may change the logarithm of the root mean square by."""
    values = _samples(tensor)
    if _simple(values):  # which no dtype rounds
        return 0.0
    return 0.5 if bool((values == values[0]).all()) else 1 / math.sqrt(tensor.numel())


def _simple(values: Tensor) -> bool:
    """Return whether all values have at most 5 binary digits."""
    mantissas = torch.frexp(values.double())[0] * _SIMPLE
    return torch.equal(mantissas, mantissas.round())


def _root_mean_square(values: Sequence[float]) -> float:
    """Return the root mean square in 3 digits, so that it is the same on every machine."""
    return float(f"{math.sqrt(sum(value * value for value in values) / max(len(values), 1)):.3g}")


def _fits(values: Tensor, dtype: torch.dtype) -> bool:
    return torch.equal(values.to(dtype).to(values), values)

"""Laws of a format's decomposition."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import FormatError
from .laws import LawCheck, require
from .subject import FormatSubject, distance

_FACTOR = -1024.0
"""Minus a power of two, so that the product with it is exact."""

_SLIGHT = 1e-12
"""A relative change of a tensor that fp32 does not hold."""
_CHANGED = 1e-3

_ALIKE = 0.8
"""Lower bound of the cosine with an exactly representable tensor; a fit may stop at a local optimum."""


_SCALED = 0.02
"""Largest deviation from 1 of the factor that brings a result closest to the tensor; it is 1 for a projection."""


def _shapes(subject: FormatSubject) -> str | None:
    if subject.undecomposed:
        return subject.undecomposed
    for modes, cores in subject.factorized.items():
        wanted = subject.network(modes).shapes()
        found = {name: tuple(core.shape) for name, core in cores.items()}
        require(
            found == wanted,
            expected=f"cores of shapes {wanted}",
            got=found,
            cause="a core that is transposed, or whose name differs from the network",
        )
    return None


def _kind(subject: FormatSubject) -> str | None:
    if subject.undecomposed:
        return subject.undecomposed
    case, tensor = next(iter(subject.tensors.items()))
    found = {("cpu", torch.float64): subject.found[case]}
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        found[device, torch.float32] = subject.format.decompose(tensor.to(device, torch.float32), case)
    for (device, dtype), each in found.items():
        kinds = {(core.dtype, core.device.type) for core in each.cores.values()}
        require(
            kinds == {(dtype, device)},
            expected=f"cores in {dtype} on {device}, like the tensor",
            got=", ".join(sorted(f"{kind} on {place}" for kind, place in kinds)),
            cause="numpy, .double(), or a tensor created without dtype= and device= in factorize()",
        )
    _require_precision(subject)
    return None


def _require_precision(subject: FormatSubject) -> None:
    """Require that a slight change of a tensor in fp64 changes every core that depends on the tensor."""
    modes, tensor = next(iter(subject.tensors.items()))
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise *= tensor.abs() * (tensor.abs() < tensor.abs().max())  # the scale of the tensor stays
    found = subject.found[modes].cores
    nudged = subject.format.decompose(tensor + _SLIGHT * noise, modes).cores
    rounded = [name for name, core in found.items() if torch.equal(nudged[name], core)]
    if rounded:  # a core may have the same values for any tensor
        changed = subject.format.decompose(tensor + _CHANGED * noise, modes).cores
        rounded = [name for name in rounded if not torch.equal(changed[name], found[name])]
    require(
        not rounded,
        expected=f"cores that a relative change of {_SLIGHT:g} of a tensor in fp64 changes",
        got=f"the same values in {', '.join(rounded)}",
        cause="a factorize() that computes in fp32, as with .float() or numpy.float32",
    )


def _repeats(subject: FormatSubject) -> str | None:
    if subject.undecomposed:
        return subject.undecomposed
    for modes, cores in list(subject.factorized.items())[:1]:
        tensor = subject.tensors[modes]
        with torch.random.fork_rng([]):
            torch.manual_seed(1)
            state = torch.get_rng_state()
            again = subject.format.factorize(tensor / tensor.abs().max(), modes)
            left = torch.equal(torch.get_rng_state(), state)
        cause = "torch's global random state; use torch.Generator().manual_seed(0) in factorize()"
        require(left, expected="torch's random state unchanged", got="a different state", cause=cause)
        differing = [name for name, core in cores.items() if not torch.equal(core, again[name])]
        require(
            not differing,
            expected="the same cores again",
            got=f"different values in {', '.join(differing)}",
            cause=cause,
        )
    return None


def _scales(subject: FormatSubject) -> str | None:
    if subject.undecomposed:
        return subject.undecomposed
    cause = "factorize() drops a sign or scale, applies it to two cores, or permutes dimensions"
    tensors = {**subject.tensors, **{modes: subject.representable(modes) for modes in subject.equal}}
    for modes, tensor in tensors.items():
        dense = (subject.found.get(modes) or subject.format.decompose(tensor, modes)).dense()
        alike = float(torch.cosine_similarity(dense.flatten(), tensor.flatten(), dim=0))
        require(
            alike > _ALIKE,
            expected=f"a cosine with the tensor above {_ALIKE}",
            got=f"{alike:.3g} for modes {' '.join(f'{mode.name}={mode.size}' for mode in modes)}",
            cause=cause,
        )
        best = float((dense * tensor).sum() / dense.square().sum())
        require(
            abs(best - 1) < _SCALED,
            expected="a result that no factor brings closer to the tensor",
            got=f"one that is {best:.3g} times too small",
            cause=cause,
        )
    for modes, tensor, found in subject.decomposed():
        apart = distance(subject.format.decompose(_FACTOR * tensor, modes).dense(), _FACTOR * found.dense())
        require(
            apart < 1e-6,
            expected=f"{_FACTOR:g} times the tensor to decompose into {_FACTOR:g} times the result",
            got=f"a relative difference of {apart:.2g}",
            cause=cause,
        )
    return None


def _says_its_error(subject: FormatSubject) -> str | None:
    if subject.undecomposed:
        return subject.undecomposed
    decomposed = list(subject.found.items())
    with contextlib.suppress(FormatError):  # the next law reports a rank that cannot be lowered
        decomposed += subject.lower.items()
    for case, found in decomposed:
        tensor = subject.tensors[case]
        true = float((found.dense() - tensor).norm() / tensor.norm())
        require(
            math.isclose(found.error, true, rel_tol=1e-6, abs_tol=1e-9),
            expected=f"the measured error {true:.6g}",
            got=f"{found.error:.6g}",
            cause="an overridden decompose() that estimates the error, or changes the cores after measuring it",
        )
        require(
            found.error <= 1 + 1e-6,
            expected="an error of at most 1, that of zero cores",
            got=f"{found.error:.6g}",
            cause="factorize() scales the cores after the fit",
        )
    return None


def _falls(subject: FormatSubject) -> str | None:
    if subject.undecomposed:
        return subject.undecomposed
    if subject.format.own_rank is None:
        return "the format has no rank"
    if not subject.lower:
        return "the format has the lowest rank; pass a format of higher rank"
    for case, low in subject.lower.items():
        error = subject.found[case].error
        require(
            error <= low.error * (1 + 1e-6) + 1e-6,
            expected=f"an error of at most {low.error:.4g}, that of {low.format}",
            got=f"{error:.4g} with {subject.format}",
            cause="a fit that stops early, or ranks that are not used",
        )
    return None


def _keeps_given(subject: FormatSubject) -> str | None:
    if subject.undecomposed:
        return subject.undecomposed
    for modes, _, found in subject.decomposed():
        given: Mapping[str, Tensor] = subject.format.given(modes)
        if not given:
            return "the format has no given cores"
        changed = [name for name, core in given.items() if not torch.equal(found.cores[name], core.to(torch.float64))]
        require(
            not changed,
            expected="the given cores unchanged",
            got=f"different values in {', '.join(changed)}",
            cause="factorize() fits or scales all cores of the network",
        )
    return None


_SHAPED = ("cores in shape",)
_SAME = ("dtype and device kept", "decomposition repeats")

DECOMPOSITION_LAWS: tuple[LawCheck[FormatSubject], ...] = (
    LawCheck("cores in shape", "factorize returns the network's cores in its shapes", _shapes, ("every core learns",)),
    LawCheck("given cores stay", "a decomposition leaves the given cores unchanged", _keeps_given, _SHAPED),
    LawCheck(_SAME[0], "cores have the tensor's dtype, precision and device", _kind, _SHAPED),
    LawCheck(_SAME[1], "decomposition is deterministic and leaves torch's random state unchanged", _repeats, _SHAPED),
    LawCheck(
        "sign and size",
        "the result has the sign, scale and order of modes of the tensor",
        _scales,
        _SAME,
    ),
    LawCheck(
        "error is true", "the reported error is the measured error, at most 1", _says_its_error, ("sign and size",)
    ),
    LawCheck("error falls with rank", "a higher rank does not increase the error", _falls, ("error is true",)),
)

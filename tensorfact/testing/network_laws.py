"""Laws of a format's options, its network, and the initialization of its factors."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapters.factors import Factors
from ..errors import FormatError
from ..formats import Format, format_from_dict, format_to_dict
from ..formats.registry import plain_option, read_option
from ..network import Mode, Network
from ..network.initial import deviations, fresh
from ..network.starts import GIVEN, ZERO
from .laws import LawCheck, crashed, require
from .smallest_model import change_when_subtracted, routes, tasks_of_samples
from .subject import FormatSubject, distance, evaluated

_KEPT = ("normal", "uniform", "orthogonal", ZERO, GIVEN)
"""Starts that preserve the variance, or that have no scale."""
_NEGLIGIBLE = 1e-12
"""Entries of a gradient below this share of the largest one count as zero."""
_DRAWS = 300
_SAMPLES = 4


def _immutable(subject: FormatSubject) -> None:
    format, kind = subject.format, type(subject.format)
    require(
        "__dataclass_params__" in vars(kind) and vars(kind)["__dataclass_params__"].frozen,
        expected="a frozen dataclass",
        got=f"class {kind.__name__} without the decorator",
        cause="a missing @dataclasses.dataclass(frozen=True)",
    )
    crashed(lambda: hash(format), expected="a hashable format", cause="an option that is a list, a dict or a tensor")
    twins = {"a copy": copy.deepcopy(format), "dataclasses.replace(format)": dataclasses.replace(format)}
    for name, twin in twins.items():
        require(
            twin == format and hash(twin) == hash(format),
            expected=f"{name} that equals the format, with the same hash",
            got=f"{twin} != {format}",
            cause="eq=False, or an option that __post_init__ changes every time",
        )


def _survives_json(subject: FormatSubject) -> None:
    format = subject.format
    cause = "an option of a type that JSON does not have, or that __post_init__ does not convert back"
    back = crashed(lambda: _through_json(format), expected="options that JSON can store", cause=cause)
    require(back == format, expected=str(format), got=str(back), cause=cause)
    require(
        str(back) == str(format) and repr(back) == repr(format) and hash(back) == hash(format),
        expected=f"the text and hash of {format!r}",
        got=repr(back),
        cause=cause,
    )


def _through_json(format: Format) -> Format:
    """Write a format as JSON and read it back, by its name or, if it is not registered, by its options."""
    try:
        stored = format_to_dict(format)
    except FormatError:
        options = {field.name: plain_option(getattr(format, field.name)) for field in dataclasses.fields(format)}
        back = json.loads(json.dumps(options))
        return type(format)(**{name: read_option(value) for name, value in back.items()})
    return format_from_dict(json.loads(json.dumps(stored)))


def _repeats(subject: FormatSubject) -> None:
    def check(modes: tuple[Mode, ...], seed: int) -> None:
        format, twin = subject.format, copy.deepcopy(subject.format)
        first, *others = (each.network(modes) for each in (format, format, twin))
        for other in others:
            require(
                other == first,
                expected=f"the same network every time, {first} {dict(first.sizes)}",
                got=f"{other} {dict(other.sizes)}",
                cause="a random choice, a counter or a set in network()",
            )
        given, again = format.given(modes), twin.given(modes)
        require(
            given.keys() == again.keys()
            and all(given[n].is_meta or torch.equal(given[n].nan_to_num(), again[n].nan_to_num()) for n in given),
            expected="the same given cores every time",
            got="different values",
            cause="random numbers in given(); compute the values from the options and the modes",
        )

    subject.for_all(check)


def _gives(subject: FormatSubject) -> None:
    def check(modes: tuple[Mode, ...], seed: int) -> None:
        network, given = subject.network(modes), subject.format.given(modes)
        cores = [core for core in network.cores if core.start == GIVEN]
        wanted = {core.name: network.shape(core.legs) for core in cores}
        found = {name: tuple(core.shape) for name, core in given.items()}
        require(
            found == wanted,
            expected=f"values for the cores that start 'given', of shapes {wanted}",
            got=found,
            cause="a name or a shape in given(modes) that is not that of the core in network(modes)",
        )
        kinds = {core: f"{core.dtype} on {core.device}" for core in given.values()}
        require(
            all(core.is_floating_point() and core.device.type == "cpu" for core in kinds),
            expected="given cores of real numbers on the CPU",
            got=", ".join(sorted(set(kinds.values()))),
            cause="an integer or boolean tensor, or a tensor created without device='cpu'",
        )
        awake = [core.name for core in cores if core.trained or given[core.name].requires_grad]
        require(
            not awake,
            expected="given cores that are not trained",
            got=f"{', '.join(awake)} trained",
            cause="a core with start='given' without trained=False, or a parameter in given()",
        )

    subject.for_all(check)


def _keeps_modes(subject: FormatSubject) -> None:
    def check(modes: tuple[Mode, ...], seed: int) -> None:
        network = subject.network(modes)
        names, sizes = tuple(mode.name for mode in modes), tuple(mode.size for mode in modes)
        cause = "an output in the order of the cores; use tuple(mode.name for mode in modes)"
        require(network.output == names, expected=f"output {names}", got=network.output, cause=cause)
        found = network.shape(network.output)
        require(found == sizes, expected=f"sizes {sizes}", got=found, cause="sizes that are not those of the modes")

    subject.for_all(check)


def _counts(subject: FormatSubject) -> None:
    def check(modes: tuple[Mode, ...], seed: int) -> None:
        held = sum(core.numel() for core in _factors(subject, modes).parameters() if core.requires_grad)
        count = subject.format.num_parameters(modes)
        require(
            count == held,
            expected=f"{held}, the number of elements of the trained cores",
            got=count,
            cause="an overridden num_parameters() with a wrong formula, or one that counts frozen cores",
        )

    subject.for_all(check)


def _is_dense(subject: FormatSubject) -> None:
    def check(modes: tuple[Mode, ...], seed: int) -> None:
        factors = _factors(subject, modes)
        factors.assign(cores := subject.cores(modes, seed))
        apart = distance(factors.dense(), evaluated(factors.network, cores))
        require(
            apart < 1e-9,
            expected=f"the einsum {factors.network}",
            got=f"a relative difference of {apart:.2g}",
            cause="a Network subclass whose equality or hash ignores a field",
        )

    subject.for_all(check)


def _starts_at_zero(subject: FormatSubject) -> None:
    def check(modes: tuple[Mode, ...], seed: int) -> None:
        has_zero = subject.has_zero(modes)
        require(
            has_zero or subject.subtract_start,
            expected="a core with start='zero'",
            got=", ".join(f"{core.name} starts {core.start!r}" for core in subject.network(modes).cores),
            cause="a start that depends on the modes or the rank, or is forgotten; for a format that is used with"
            " adapt(..., subtract_start=True), pass check_format(..., subtract_start=True)",
        )
        dense = _factors(subject, modes, seed).dense().detach()
        require(
            not has_zero or not bool(dense.any()),
            expected="a fresh tensor of zeros",
            got=f"values up to {float(dense.abs().max()):.2g}",
            cause="a given core with infinite or NaN values, whose product with zero is NaN",
        )

    subject.for_all(check)
    for modes in subject.small:
        difference = 0.0 if subject.has_zero(modes) else change_when_subtracted(subject.format, modes)
        require(
            difference == 0,
            expected="an unchanged output of a model with adapt(..., subtract_start=True)",
            got=f"a difference of {difference:.2g}",
            cause="given cores that are infinite, or that differ between calls",
        )


def _learns(subject: FormatSubject) -> None:
    def check(modes: tuple[Mode, ...], seed: int) -> None:
        factors = _factors(subject, modes, seed)
        trained = {n: p for n, p in factors.cores.named_parameters() if p.requires_grad}
        generator = torch.Generator().manual_seed(seed + 1)
        target = torch.randn([mode.size for mode in modes], generator=generator, dtype=torch.float64)
        reached = {name: torch.zeros_like(core, dtype=torch.bool) for name, core in trained.items()}
        for _ in range(2):
            gradients = torch.autograd.grad(
                (factors.dense() - target).square().sum(), list(trained.values()), allow_unused=True
            )
            with torch.no_grad():
                for (name, core), gradient in zip(trained.items(), gradients, strict=True):
                    if gradient is not None and bool(gradient.any()):
                        relative = gradient / gradient.abs().max()
                        reached[name] |= relative.abs() > _NEGLIGIBLE
                        core.sub_(0.1 * relative)
        dead = {name: int((~entries).sum()) for name, entries in reached.items() if not bool(entries.all())}
        require(
            not dead,
            expected="a nonzero gradient for every entry of the trained cores in one of the first two steps",
            got=", ".join(f"none for {n} of {reached[name].numel()} entries of {name}" for name, n in dead.items()),
            cause="two cores that start at zero, or a given core whose zeros mask another core",
        )
        alike = _alike(factors)
        require(
            not alike,
            expected="components of a bond that differ after two steps",
            got=f"equal components of {', '.join(alike)}",
            cause="cores that all start constant, so that every rank component learns the same",
        )

    subject.for_all(check)


def _alike(factors: Factors) -> list[str]:
    """Return the bonds all of whose components are equal in every core."""
    network, cores = factors.network, factors.named_cores()
    bonds = {leg for leg, size in network.sizes.items() if leg not in network.output and size > 1}
    for core in network.cores:
        for leg in bonds & set(core.legs):
            parts = cores[core.name].detach().movedim(core.legs.index(leg), 0)
            if not torch.equal(parts, parts[:1].expand_as(parts)):
                bonds.discard(leg)
    return sorted(bonds)


def _keeps_scale(subject: FormatSubject) -> str | None:
    for modes in subject.small:
        if not subject.has_zero(modes):
            return "no core starts at zero, which the scale of the others is defined by"
        starts = {core.start for core in subject.network(modes).cores}
        if other := sorted(starts.difference(_KEPT)):
            return f"a core starts {other[0]!r}, which sets its own scale"
        mean = _mean_square(subject, modes)
        require(
            0.5 < mean < 2,
            expected="a mean square of 1 for the input of the core that starts at zero",
            got=f"{mean:.3g}",
            cause="given cores of another scale, or a leg of three cores, which is counted twice",
        )
    return None


def _mean_square(subject: FormatSubject, modes: Sequence[Mode]) -> float:
    """Return the mean square of an input of variance 1 after all cores but the one that starts at zero."""
    network, given = subject.network(modes), subject.format.given(modes)
    inputs = tuple(mode.name for mode in modes if mode.side == "in")
    zero = next(core for core in network.cores if core.start == ZERO)
    random = tuple(core for core in network.cores if core is not zero)
    samples = "(samples)"
    held = {leg for core in random for leg in core.legs} | set(inputs)
    left = [leg for leg in held if leg in zero.legs or (leg in network.output and leg not in inputs)]
    met = Network(
        (dataclasses.replace(zero, name=samples, legs=(samples, *inputs)), *random),
        (samples, *left),
        {samples: _SAMPLES, **{leg: size for leg, size in network.sizes.items() if leg in held}},
    )
    generator, squares = torch.Generator().manual_seed(0), []
    deviation = deviations(network, modes)
    for _ in range(_DRAWS):
        cores: dict[str, Tensor] = fresh(network, deviation, given, generator)
        cores[samples] = torch.randn(met.shape((samples, *inputs)), generator=generator)
        squares.append(evaluated(met, cores).square().mean())
    return float(torch.stack(squares).mean())


def _agrees(subject: FormatSubject) -> str | None:
    for modes in subject.layers:
        found = routes(subject.format, modes)
        if found is None:
            return "there are no inputs or no outputs, so no layer can use it"
        reference = found["weight"]
        for name, route in found.items():
            apart = max(
                distance(route.output, reference.merged),
                distance(route.merged, reference.merged),
                distance(route.gradients, reference.gradients),
            )
            require(
                apart < 1e-9 and route.numerical,
                expected="the same output and gradients on every route, and the same output merged",
                got=f"a relative difference of {apart:.2g} on the route {name!r}"
                + ("" if route.numerical else ", and gradients other than finite differences"),
                cause="a reserved name of a core or leg: core 'x', leg '(tokens)'",
            )
    return None


def _serves_tasks(subject: FormatSubject) -> str | None:
    for modes in subject.small:
        for shared in (False, True):
            found = tasks_of_samples(subject.format, modes, shared)
            if found is None:
                continue
            apart = distance(*found)
            require(
                apart < 1e-9,
                expected="the output of each sample's task alone in a mixed batch of a bank",
                got=f"a relative difference of {apart:.2g}{' with a shared core' if shared else ''}",
                cause="a reserved name of a leg: '(sample)' or '(task)'",
            )
    return None


def _factors(subject: FormatSubject, modes: Sequence[Mode], seed: int = 0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    given = subject.format.given(modes)
    return Factors(subject.network(modes), modes, given=given, dtype=torch.float64, generator=generator)


_NETWORK = ("equal arguments, equal network", "modes in order", "given cores fit")

NETWORK_LAWS: tuple[LawCheck[FormatSubject], ...] = (
    LawCheck("immutable", "a hashable frozen dataclass that equals its copies", _immutable),
    LawCheck("options survive JSON", "JSON serialization preserves the format", _survives_json, ("immutable",)),
    LawCheck(_NETWORK[0], "network(modes) and given(modes) are deterministic", _repeats),
    LawCheck(_NETWORK[1], "the network's output is the tensor's modes, in order", _keeps_modes, _NETWORK[:1]),
    LawCheck(_NETWORK[2], "given(modes) has the values of the cores that start given", _gives, _NETWORK[:1]),
    LawCheck("count", "num_parameters is the number of elements of the trained cores", _counts, _NETWORK),
    LawCheck("dense", "the dense tensor is the einsum of the network", _is_dense, _NETWORK),
    LawCheck("zero start", "fresh factors do not change the output", _starts_at_zero, ("dense",)),
    LawCheck(
        "every core learns",
        "gradients reach every trained entry within two steps",
        _learns,
        ("zero start",),
    ),
    LawCheck(
        "scale of the start", "random cores preserve the variance of an input", _keeps_scale, ("every core learns",)
    ),
    LawCheck("routes agree", "every route has the same output and gradients, also merged", _agrees, ("zero start",)),
    LawCheck("tasks", "a mixed batch of a bank is each sample with its task", _serves_tasks, ("routes agree",)),
)

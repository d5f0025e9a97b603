"""Check a plan on a model against the laws."""

from __future__ import annotations

import copy
import dataclasses
import functools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ..adapters import Adapter, adapt, load_adapter
from ..adapters.factors import Factors
from ..errors import AdaptError, FormatError
from ..formats import Format, TensorTrain, format_to_dict
from ..model.example import ExampleInput, as_example, known_example, observing, runs
from ..model.outputs import numbers, tolerance_of
from ..model.parameters import own_parameters
from ..plan import ResolvedPlan, TensorizationPlan
from .laws import BrokenError, LawCheck, Laws, crashed, laws_of, require
from .subject import distance

_INCREMENT = 0.3
"""The size of the test increments, relative to that of a usual weight."""


@dataclasses.dataclass(frozen=True)
class PlanSubject:
    """A plan and a model under test. Every law uses its own copy of the model.

    Args:
        plan: The plan.
        original: The model, which is copied and never run itself.
        example: The input on which copies of the model run.
        format: The format of the factors; its rank is lowered where a tensor admits less.
        subtract_start: Whether the adapter is used with `adapt(..., subtract_start=True)`.
    """

    plan: TensorizationPlan
    original: nn.Module
    example: ExampleInput
    format: Format | Mapping[str, Format]
    subtract_start: bool = False

    def model(self) -> nn.Module:
        """Return a copy of the model in evaluation mode with frozen parameters."""
        return copy.deepcopy(self.original).eval().requires_grad_(False)

    @functools.cached_property
    def resolved(self) -> ResolvedPlan:
        """The plan, resolved on the model."""
        return self.plan.resolve(self.model())

    def adapted(
        self, route: Literal["auto", "weight"] = "auto", *, drawn: bool = True, trainable: bool = False
    ) -> tuple[nn.Module, Adapter]:
        """Return a copy of the model and its adapter.

        Args:
            route: The route of the adapter.
            drawn: Draw all cores at random, so that the adapter changes the output.
            trainable: Whether the parameters of the model are trainable before `adapt`.
        """
        model = self.model().requires_grad_(trainable)
        formats = self.resolved.fitted(self.format)
        adapter = adapt(model, self.plan, formats, route=route, train_head=False, seed=0, check=False)
        if drawn:
            self._draw(adapter)
        return model, adapter

    def _draw(self, adapter: Adapter) -> None:
        """Draw all cores at random, with increments of about `_INCREMENT` times the size of a usual weight."""
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in adapter.resolved.tensors:
                factors = cast("Factors", adapter.factors[tensor.name])
                trained = [core for core in factors.tensors() if core.requires_grad]
                for core in trained:
                    core.copy_(torch.randn(core.shape, generator=generator).to(core))
                deviation = float(factors.dense().double().square().mean().sqrt())
                inputs = max(mode.size for mode in tensor.modes)
                trained[-1].mul_(_INCREMENT / inputs**0.5 / max(deviation, 1e-12))

    def output(self, model: nn.Module) -> Tensor:
        """Return the output of a model for the example, in evaluation mode, without changing the model."""
        with observing(model):
            return numbers(self.example.run(model)).detach().clone()


def check_plan(
    plan: TensorizationPlan,
    model: nn.Module,
    example_input: object = None,
    format: Format | Mapping[str, Format] | None = None,
    *,
    subtract_start: bool = False,
) -> Laws:
    """Return the laws that a plan on a model has to satisfy. They run when called, by pytest or in a report.

    Args:
        plan: The plan to test.
        model: The model; it is copied and not changed.
        example_input: A tensor, a tuple of arguments, or a dict of keyword arguments; by default the input that the
            model declares, as those of timm and transformers do.
        format: The format of the factors; by default a tensor-train of rank 2.
        subtract_start: Whether the adapter is used with `adapt(..., subtract_start=True)`, as for a format in which no
            core starts at zero.

    Returns:
        The laws: `check_plan(plan, model).as_test()` is a pytest test, `.report()` returns a table of results.

    Raises:
        AdaptError: `plan` is not a plan, or no example input is known.

    Examples:
        >>> from tensorfact import plan_for
        >>> from tensorfact.lab import nano
        >>> from tensorfact.testing import check_plan
        >>> model = nano()
        >>> laws = check_plan(plan_for(model, blocks="attention"), model)
        >>> laws[0].name, laws[0]()
        ('gather after scatter', None)
    """
    if not isinstance(plan, TensorizationPlan):
        raise AdaptError("check_plan: plan", expected="a TensorizationPlan", got=repr(plan), fix="plan_for(model)")
    example = known_example(model) if example_input is None else as_example(example_input)
    if example is None:
        raise AdaptError(
            f"check_plan: no example input is known for {type(model).__name__}",
            fix="check_plan(plan, model, example_input)",
        )
    format = TensorTrain(2) if format is None else format
    subject = PlanSubject(plan, copy.deepcopy(model), example, format, subtract_start)
    return laws_of(subject, f"a plan on {type(model).__name__}", PLAN_LAWS)


def _folds(subject: PlanSubject) -> None:
    for tensor in subject.resolved.tensors:
        whole = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
        whole.view(-1)[:2] = torch.tensor([-0.0, float("inf")])[: whole.numel()]
        again = tensor.gather(tensor.scatter(whole))
        require(
            _bits(again) == _bits(whole),
            expected=f"tensor {tensor.name!r} back, bit for bit",
            got=f"{int((again != whole).sum())} different values",
            cause="two slices in one place, or a place without a slice",
        )


def _once(subject: PlanSubject) -> None:
    named = [*subject.resolved.parameters, *(left.parameter for left in subject.resolved.left_out)]
    parameters = own_parameters(subject.model())
    twice = sorted({name for name in named if named.count(name) > 1})
    missing, unknown = sorted(parameters.keys() - set(named)), sorted(set(named) - parameters.keys())
    require(
        not (twice or missing or unknown),
        expected="every parameter in exactly one tensor, or left out with a reason",
        got=f"{twice} twice, {missing} missing, {unknown} unknown",
        cause="a resolve() that adds or drops parameters",
    )


def _reads_back(subject: PlanSubject) -> None:
    cause = "an option that to_json() omits"
    back = crashed(
        lambda: type(subject.plan).from_json(subject.plan.to_json()), expected="JSON that can be read back", cause=cause
    )
    require(back == subject.plan, expected="the same plan", got=back, cause=cause)


def _only_reads(subject: PlanSubject) -> None:
    model = copy.deepcopy(subject.original)
    before = _snapshot(model)
    subject.plan.resolve(model)
    changed = [name for name, value in _snapshot(model).items() if value != before[name]]
    require(
        not changed,
        expected="an unchanged model",
        got=f"different {', '.join(changed)}",
        cause="a resolve() that runs the model or sets its mode",
    )


def _stays_frozen(subject: PlanSubject) -> None:
    model, adapter = subject.adapted(trainable=True)
    with torch.random.fork_rng([]):
        sums = [tensor.square().sum() for tensor in _tensors(subject.example.run(model))]
        torch.autograd.backward(torch.stack(sums).sum())
        runs(lambda: subject.example.run(model.train()))  # a batch of one may be too small for training mode
    own = {id(core) for core in adapter.parameters()}
    base = {name: p for name, p in model.named_parameters() if id(p) not in own}
    awake = sorted(name for name, p in base.items() if p.requires_grad or p.grad is not None)
    require(
        not awake,
        expected="no base parameter with requires_grad or a gradient",
        got=f"{len(awake)}, for example {', '.join(awake[:1])}",
        cause="a model whose forward or train() sets requires_grad on its weights",
    )


def _unchanged(subject: PlanSubject) -> None:
    for route in _routes():
        model = subject.model()
        expected = subject.output(model)
        adapt(
            model,
            subject.plan,
            subject.resolved.fitted(subject.format),
            route=route,
            train_head=False,
            seed=0,
            check=False,
            subtract_start=subject.subtract_start,
        )
        found = subject.output(model)
        require(
            torch.equal(found, expected),
            expected="the base model's output, bit for bit",
            got=f"a difference of {distance(found, expected):.2g} on route {route!r}",
            cause="a model that checks the type of its layers or draws random numbers in evaluation mode, or a format"
            " in which no core starts at zero, which needs check_plan(..., subtract_start=True)",
        )


def _is_weights(subject: PlanSubject) -> None:
    model, adapter = subject.adapted()
    base = {name: p.detach().double() for name, p in own_parameters(subject.model()).items()}
    with torch.no_grad():
        for tensor in adapter.resolved.tensors:
            factors = cast("Factors", adapter.factors[tensor.name])
            for name, part in tensor.scatter(factors.dense()).items():
                effective = _attribute(model, name).double()
                apart = float((effective - base[name] - part.double() * adapter.scales[tensor.name]).abs().max())
                size = max(float(effective.abs().max()), 1e-30)
                require(
                    apart < tolerance_of(model) * size,
                    expected=f"effective - base of {name!r} to equal its slice of the dense tensor",
                    got=f"a difference of {apart:.2g}",
                    cause="a scatter() that puts a slice in another place than the layers read",
                )


def _agree(subject: PlanSubject) -> None:
    outputs: dict[str, Tensor] = {}
    for route in _routes():
        model, adapter = subject.adapted(route)
        outputs[route] = subject.output(model)
        adapter.merge()
        outputs["merged"] = subject.output(model)
    for name, output in outputs.items():
        apart = distance(output, outputs["merged"])
        require(
            apart < tolerance_of(subject.original),
            expected="the same output on every route and merged",
            got=f"a difference of {apart:.2g} between {name!r} and merged",
            cause="a model that caches a weight, as in module._parameters['weight'] or a packed copy",
        )


def _restores(subject: PlanSubject) -> None:
    model, adapter = subject.adapted()
    before = {name: _bits(tensor) for name, tensor in model.state_dict().items()}
    for _ in range(2):
        adapter.merge()
        adapter.unmerge()
        changed = [name for name, tensor in model.state_dict().items() if _bits(tensor) != before[name]]
        require(
            not changed,
            expected="the parameters from before merge(), bit for bit",
            got=f"different values in {', '.join(changed)}",
            cause="a parameter that changes values copied into it, or two parameters that share memory",
        )


def _loads(subject: PlanSubject) -> str | None:
    model, adapter = subject.adapted()
    try:
        for format in adapter.formats.values():
            format_to_dict(format)
    except FormatError as error:
        return f"the format cannot be saved: {error}"
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(file := Path(folder) / "adapter.safetensors")
        twin = subject.model()
        load_adapter(twin, file, check=False)
        found, expected = subject.output(twin), subject.output(model)
    require(
        torch.equal(found, expected),
        expected="the same output after saving and loading, bit for bit",
        got=f"a difference of {distance(found, expected):.2g}",
        cause="values of the model that differ between copies",
    )
    return None


def _lives(subject: PlanSubject) -> None:
    _, adapter = subject.adapted(drawn=False)
    try:
        adapter.check(subject.example.keywords or subject.example.arguments)
    except AdaptError as error:
        cause = "a layer that is never used"
        raise BrokenError("an output that depends on every parameter", error, cause) from error


def _routes() -> tuple[Literal["auto", "weight"], ...]:
    return ("auto", "weight")


def _tensors(output: object) -> Iterator[Tensor]:
    """Yield the tensors of a model's output that require a gradient."""
    if isinstance(output, Tensor):
        if output.requires_grad:
            yield output
    elif isinstance(output, Mapping):
        yield from (tensor for value in output.values() for tensor in _tensors(value))
    elif isinstance(output, (list, tuple)):
        yield from (tensor for value in output for tensor in _tensors(value))


def _attribute(model: nn.Module, name: str) -> Tensor:
    module, _, attribute = name.rpartition(".")
    found: Tensor = getattr(model.get_submodule(module), attribute)
    return found


def _bits(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor, to distinguish 0.0 from -0.0."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _snapshot(model: nn.Module) -> dict[str, object]:
    return {
        "modules": [(name, type(module), module.training) for name, module in model.named_modules()],
        "attributes": [sorted(module.__dict__) for module in model.modules()],
        "numbers": {name: _bits(tensor) for name, tensor in model.state_dict().items()},
        "flags": {name: p.requires_grad for name, p in model.named_parameters()},
    }


_RESOLVED = ("every parameter once", "resolving writes nothing")
_EXACT = ("fresh adapter changes nothing", "slices are weights")
_ROUTES, _UNMERGED = "plan's routes agree", "unmerge restores"

PLAN_LAWS: tuple[LawCheck[PlanSubject], ...] = (
    LawCheck("gather after scatter", "gather inverts scatter, bit for bit", _folds),
    LawCheck(_RESOLVED[0], "every parameter is in exactly one tensor or left out", _once),
    LawCheck("plan survives JSON", "JSON serialization preserves the plan", _reads_back),
    LawCheck(_RESOLVED[1], "resolve does not change the model", _only_reads),
    LawCheck(_EXACT[0], "in evaluation mode the output is the base model's, bit for bit", _unchanged, _RESOLVED),
    LawCheck(_EXACT[1], "slices of the dense tensor equal effective minus base weights", _is_weights, _RESOLVED),
    LawCheck("base stays frozen", "after a backward pass base parameters have no gradient", _stays_frozen, _RESOLVED),
    LawCheck(_ROUTES, "every route and the merged model give the same output", _agree, _RESOLVED),
    LawCheck(_UNMERGED, "unmerge after merge restores every bit", _restores, _RESOLVED),
    LawCheck("save and load", "a loaded adapter gives the same output", _loads, (*_RESOLVED, "plan survives JSON")),
    LawCheck(
        "every parameter is alive",
        "every adapted parameter affects the output",
        _lives,
        (_ROUTES, _UNMERGED),
    ),
)

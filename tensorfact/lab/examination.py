"""`doctor`: what an adapter would reach in a model, what it would not, and what training it would cost."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import NamedTuple

from torch import nn

from ..adapters import Adapter, adapt
from ..common.checks import flag, of_type
from ..common.table import Table, scaled
from ..errors import AdaptError, PlanError, TensorfactError
from ..formats import Format, FormatLike
from ..model.example import ExampleInput, as_example, known_example, observing, outline
from ..model.head import head_parameters
from ..model.parameters import own_parameters, refuse_adapted, refuse_compiled
from ..plan import TensorizationPlan, plan_by_shape, plan_for
from ..plan.tensors import ResolvedPlan
from .step_cost import StepCost, step_cost

FULL, ADAPTER = "full fine-tuning", "adapter"
"""The rows of the table of costs."""

_UNUSED = "not used by the forward pass on the example input: an adapter has no effect there"
_UNCALLED = "layers of peft's adapters that the forward pass does not call: they train nothing"
_PASS_INPUT = "Fix: doctor(model, example_input=x)"


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Result of `doctor`; `str` gives a report.

    Args:
        model: The class of the model.
        parameters: The number of its parameters.
        plan: The function that made the plan, `plan_for` or `plan_by_shape`, or `given`; empty without a plan.
        resolved: The tensors of the plan, and the parameters that it leaves out with a reason; None without a plan.
        head: The names of the parameters of the head, which are trained directly.
        unused: The parameters in the plan that the forward pass on the example input does not use: an adapter has no
            effect there. None if the model did not run.
        peft_unused: The layers of peft's adapters that the forward pass does not call; None if it was not asked or the
            model did not run.
        costs: The cost of a training step on that input by what is trained; empty if it was not counted.
        remarks: What stands in the way: why there is no plan of a known family, no head, no forward pass.
    """

    model: str
    parameters: int
    plan: str = ""
    resolved: ResolvedPlan | None = None
    head: tuple[str, ...] = ()
    unused: tuple[str, ...] | None = None
    peft_unused: tuple[str, ...] | None = None
    costs: Mapping[str, StepCost] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def folded(self) -> tuple[str, ...]:
        """The parameters that the plan folds into tensors."""
        return () if self.resolved is None else self.resolved.parameters

    @property
    def share(self) -> float:
        """The fraction of the model's matrix and kernel entries, without embeddings and tables, in the tensors."""
        return 0.0 if self.resolved is None else self.resolved.share

    def tables(self) -> dict[str, Table]:
        """Return the tables of the report, by title."""
        found = {"summary": self._summary()}
        if self.resolved is not None:
            found["tensors"] = self.resolved.table()
            found["left out of the tensors"] = self.resolved.left_out_table()
        listed = {_UNUSED: ("parameter", self.unused), _UNCALLED: ("layer", self.peft_unused)}
        for title, (kind, names) in listed.items():
            if names:
                found[title] = Table((kind,), tuple((name,) for name in names))
        if self.costs:
            found["one training step on the example input, in evaluation mode"] = _cost_table(self.costs)
        return found

    def _summary(self) -> Table:
        used = "not known" if self.unused is None else f"{len(self.folded) - len(self.unused)} of {len(self.folded)}"
        tensors = "" if self.resolved is None else f"{len(self.resolved.tensors)}, by {self.plan}"
        rows = [
            ("model", f"{self.model}, {self.parameters:,} parameters"),
            ("tensors", tensors or "none"),
            ("share of matrices and kernels", f"{self.share:.0%}"),
            ("folded parameters in use", used),
            ("head", ", ".join(self.head) or "none"),
        ]
        return Table(("question", "answer"), tuple(rows))

    def __str__(self) -> str:
        return "\n\n".join([*(f"{title}\n{table}" for title, table in self.tables().items()), *self.remarks])


def doctor(
    model: nn.Module,
    plan: TensorizationPlan | None = None,
    format: FormatLike | Mapping[str, FormatLike] = "tt:rank=8",
    *,
    example_input: object = None,
    costs: bool = True,
    peft: object = None,
) -> Diagnosis:
    """Examine what an adapter would reach in a model: which parameters, whether they are in use, at what cost.

    The model is neither changed nor trained. A copy without values runs on the meta device; if the model needs values
    to run, a copy of it runs once.

    Args:
        model: The model; one on the meta device is enough for most.
        plan: The weights to adapt; default: `plan_for(model)`, or `plan_by_shape(model)` for other families.
        format: The format whose cost is counted, with ranks lowered to what small tensors admit.
        example_input: A tensor, a tuple of arguments, or a mapping of keyword arguments; default: an input derived
            from timm's `pretrained_cfg`, or transformers' `config` or `dummy_inputs`.
        costs: Also count what a training step costs, on the meta device.
        peft: A configuration of peft, such as a `LoraConfig`, a folder with one, or a model that peft has adapted: also
            find its layers that the model never calls. A `model` that peft has adapted stands for itself.

    Returns:
        The findings.

    Raises:
        AdaptError: The model is already adapted, or an argument has the wrong type.
        PlanError: The given plan does not fit the model.
        FormatError: The format does not fit a tensor.

    Examples:
        >>> import timm
        >>> from tensorfact import doctor
        >>> found = doctor(timm.create_model("vit_tiny_patch16_224"))
        >>> found.plan, len(found.folded), found.unused, found.head
        ('plan_for', 48, (), ('head.weight', 'head.bias'))
        >>> found.costs["adapter"].trained, found.costs["full fine-tuning"].trained
        (205288, 5717416)
    """
    refuse_compiled(model, "doctor")
    if peft is None and hasattr(model, "peft_config"):
        peft = model
    if peft is not None:
        model = _peft_layers().base_of(model)
    refuse_adapted(model, "doctor")
    if plan is not None:
        of_type(plan, TensorizationPlan, "doctor: plan", AdaptError, expected="a plan", example="plan_for(model)")
    flag(costs, "doctor: costs", AdaptError)
    example = known_example(model) if example_input is None else as_example(example_input)
    remarks: list[str] = []
    made, chosen = _plan(model, plan, remarks)
    count = sum(parameter.numel() for parameter in own_parameters(model).values())
    found = Diagnosis(type(model).__name__, count, made, head=_head(model, remarks))
    if chosen is not None:
        resolved = chosen.resolve(model)
        found = dataclasses.replace(found, resolved=resolved)
        if example is None:
            remarks.append(f"no example input of {found.model} is known. {_PASS_INPUT}")
        else:
            adapting = _Adapting(chosen, resolved.fitted(format))
            with observing(model):
                unused = _unused(model, adapting, example, remarks)
                counted = _costs(model, adapting, example, remarks) if costs and unused is not None else {}
            found = dataclasses.replace(found, unused=unused, costs=counted)
    if peft is not None and example is not None:
        found = dataclasses.replace(found, peft_unused=_peft_unused(model, peft, example, remarks))
    return dataclasses.replace(found, remarks=tuple(remarks))


class _Adapting(NamedTuple):
    """How copies of the model are adapted."""

    plan: TensorizationPlan
    formats: Mapping[str, Format]

    def __call__(self, model: nn.Module) -> Adapter:
        try:
            return adapt(model, self.plan, self.formats, check=False)
        except AdaptError:  # no head was found, or the plan holds it
            return adapt(model, self.plan, self.formats, check=False, train_head=False)


def _plan(
    model: nn.Module, given: TensorizationPlan | None, remarks: list[str]
) -> tuple[str, TensorizationPlan | None]:
    """Return what made the plan, and the plan; None if no two weights have the same shape."""
    if given is not None:
        return "given", given
    try:
        return "plan_for", plan_for(model)
    except PlanError as error:
        remarks.append(error.problem)
    try:
        return "plan_by_shape", plan_by_shape(model)
    except PlanError as error:
        remarks.append(str(error))
    return "", None


def _head(model: nn.Module, remarks: list[str]) -> tuple[str, ...]:
    try:
        return head_parameters(model, True)
    except AdaptError as error:
        remarks.append(str(error))
        return ()


def _unused(model: nn.Module, adapting: _Adapting, example: ExampleInput, remarks: list[str]) -> tuple[str, ...] | None:
    """Return the parameters in the plan that a forward pass does not use; None if the model does not run.

    A copy without values runs if it can, else a copy with values.
    """
    try:
        return _not_read(outline(model), adapting, example.on_meta())
    except Exception as error:  # the model may raise anything
        failed = error
    if not any(parameter.is_meta for parameter in model.parameters()):
        try:
            return _not_read(copy.deepcopy(model).eval(), adapting, example)
        except Exception as error:
            failed = error
    remarks.append(f"{type(model).__name__} does not run on the example input ({_brief(failed)}). {_PASS_INPUT}")
    return None


def _not_read(copied: nn.Module, adapting: _Adapting, example: ExampleInput) -> tuple[str, ...]:
    adapter = adapting(copied)
    example.run(copied)
    return tuple(name for name, slot in adapter.watch.slots.items() if not slot.read)


def _peft_layers() -> ModuleType:
    """Import what knows peft, which need not be installed."""
    try:
        return importlib.import_module("..integrations.peft_layers", __package__)
    except ImportError as error:
        raise AdaptError("doctor: peft= needs peft", fix="pip install 'tensorfact[peft]'") from error


def _peft_unused(model: nn.Module, peft: object, example: ExampleInput, remarks: list[str]) -> tuple[str, ...] | None:
    """Return the layers of peft's adapters that the model never calls; None if it does not run with them."""
    try:
        names, count = _peft_layers().unused_layers(model, peft, example)
    except TensorfactError:
        raise
    except Exception as error:  # peft and the model may raise anything
        remarks.append(f"peft's adapters do not run on {type(model).__name__} without values ({_brief(error)})")
        return None
    if count:
        remarks.append(f"peft: the forward pass calls {count - len(names)} of {count} adapted layers")
    else:
        remarks.append("peft: this method puts no layers around those of the model")
    return tuple(names)


def _costs(model: nn.Module, adapting: _Adapting, example: ExampleInput, remarks: list[str]) -> dict[str, StepCost]:
    """Return the costs of a step of full fine-tuning and of the adapter; none if the model needs values to run."""
    whole, adapted = outline(model), outline(model)
    adapting(adapted)
    for parameter in whole.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        return {name: step_cost(each, example.on_meta()) for name, each in ((FULL, whole), (ADAPTER, adapted))}
    except Exception as error:  # the model may raise anything
        remarks.append(f"{type(model).__name__} does not train on the meta device ({_brief(error)}): no costs")
    return {}


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:120]}"


def _cost_table(costs: Mapping[str, StepCost]) -> Table:
    headers = ("trained", "parameters", "gradients and Adam", "kept for the backward pass", "operations")
    rows = tuple(
        (name, f"{c.trained:,}", scaled(c.state, "B"), scaled(c.kept, "B"), scaled(c.flops, "FLOP"))
        for name, c in costs.items()
    )
    return Table(headers, rows)

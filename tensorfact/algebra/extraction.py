"""Extract an adapter from a fully fine-tuned model by decomposing the change of its weights."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from ..common.checks import AnyPath, callback, finite_number, flag, of_type
from ..common.progress import Progress, silent
from ..common.table import Table
from ..errors import AdaptError, DataError
from ..formats import FormatLike
from ..model.head import head_buffers
from ..model.parameters import base_parameters, base_tensors, each_once, refuse_adapted
from ..model.values import dense_values
from ..plan import ResolvedPlan, TensorGroup, TensorizationPlan
from ..plan.tensors import formats_of
from ..storage import AdapterState
from ..storage.description import AdapterDescription
from ..storage.files import StoredTensors
from ..storage.fingerprint import Fingerprint
from .changes import Change, Recompression

Weights = nn.Module | Mapping[str, Tensor] | AnyPath
"""A source of weights: a model, a state dict, or a safetensors file, from which tensors are read on demand."""


class Increments:
    """The weight increments of full fine-tuning, read on demand and folded into the tensors of a plan.

    Args:
        base: The weights before fine-tuning.
        tuned: The weights after fine-tuning.
        plan: The plan that folds weights into tensors.
        model: The model to resolve the plan on; by default `base` or `tuned`, if one is a model, else only names and
            shapes of the weights.

    Raises:
        DataError: A tensor is missing or has another shape.
        PlanError: The plan does not fit the weights.
        AdaptError: A model has an adapter.
        CheckpointError: A file is missing or damaged.
    """

    def __init__(self, base: Weights, tuned: Weights, plan: TensorizationPlan, model: nn.Module | None = None) -> None:
        given = next((each for each in (model, base, tuned) if isinstance(each, nn.Module)), None)
        self.has_model = given is not None
        self.before, self.after = _named(base), _named(tuned)
        self.host = _skeleton({**self.after, **self.before}) if given is None else given
        example = "plan_for(model)"
        of_type(plan, TensorizationPlan, "plan", AdaptError, expected="a TensorizationPlan", example=example)
        self.resolved = plan.resolve(self.host)
        _check(self.resolved, self.before, self.after)

    def own_names(self, apart: Collection[str]) -> set[str]:
        """Return the names of the base model's tensors, each once, without some of them.

        Args:
            apart: Names of those to leave out.
        """
        return each_once(base_tensors(self.host), apart).keys() & self.before.keys()

    def of(self, tensor: TensorGroup) -> dict[str, Tensor]:
        """Return the increments of the parameters of a tensor group, by parameter name.

        Args:
            tensor: A tensor group of the resolved plan.

        Raises:
            DataError: An increment contains NaN or infinity.
        """
        return {view.parameter: _difference(view.parameter, self.before, self.after) for view in tensor.views}

    def dense(self, tensor: TensorGroup) -> Tensor:
        """Return the increments of a tensor group, folded into one dense tensor.

        Args:
            tensor: A tensor group of the resolved plan.
        """
        return tensor.gather(self.of(tensor))


@dataclasses.dataclass(frozen=True)
class LeftOver:
    """A parameter that the plan does not cover.

    Args:
        parameter: The parameter's name.
        shape: The parameter's shape.
        change: The relative change |tuned - base| / |base|; None if the two cannot be compared.
        stored: Whether the adapter stores the tuned value.
        note: Why the two cannot be compared; empty if they can.
    """

    parameter: str
    shape: tuple[int, ...]
    change: float | None
    stored: bool
    note: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Extraction(Recompression):
    """An adapter that approximates a fine-tuned model, and its errors. It prints as a table of the tensors.

    Args:
        state: The adapter, not attached to a model.
        changes: One entry per tensor of the plan.
        errors: The relative error of every parameter's increment in the Frobenius norm, by parameter name.
        left_over: The parameters that the plan does not cover.
    """

    errors: Mapping[str, float]
    left_over: tuple[LeftOver, ...]

    def left_over_table(self) -> Table:
        """Return one row per tuned parameter that the plan does not cover, the most changed first."""
        tuned = [each for each in self.left_over if each.change is None or each.change]
        rows = [
            (
                each.parameter,
                "x".join(map(str, each.shape)) or "1",
                each.note if each.change is None else f"{each.change:.2e}",
                "as it is" if each.stored else "no",
            )
            for each in sorted(tuned, key=lambda each: -math.inf if each.change is None else -each.change)
        ]
        return Table(("not covered by the plan", "shape", "relative change", "stored"), tuple(rows))


def extract(
    base: Weights,
    tuned: Weights,
    plan: TensorizationPlan,
    format: FormatLike | Mapping[str, FormatLike],
    *,
    model: nn.Module | None = None,
    scale: float = 1.0,
    tolerance: float | None = None,
    keep: bool = False,
    progress: Progress = silent,
) -> Extraction:
    """Extract an adapter from a fully fine-tuned model: decompose W_tuned - W_base, folded by a plan.

    Args:
        base: The weights before fine-tuning: a model, a state dict, or a safetensors file.
        tuned: The weights after fine-tuning.
        plan: The plan that folds weights into tensors.
        format: One format for all tensors, or a dict from group names to formats.
        model: A model of this architecture to resolve the plan on, which may be on the meta device; by default `base`
            or `tuned`, if one is a model. Without a model, weights are assumed to be stored as (outputs, inputs, ...).
        scale: The scale of the adapter; its increment does not depend on it.
        tolerance: The largest relative error of each tensor. The lowest ranks that keep it are used, none above the
            format's own; rank 'full' sets no upper bound.
        keep: Also store tuned parameters that the plan does not cover (biases, norms, the head). Needs a model.
        progress: Called after each tensor.

    Returns:
        The adapter, the error of each tensor and each parameter, and the parameters that the plan does not cover.

    Raises:
        DataError: A tensor is missing, has another shape, or contains NaN or infinity; or `keep` is not a bool.
        PlanError: The plan does not fit the weights.
        RankError: A tensor does not admit the rank, or the tolerance cannot be reached at the format's rank.
        AdaptError: A model has an adapter, or the scale is 0.
        CheckpointError: A file is missing or damaged.

    Examples:
        >>> import torch
        >>> from tensorfact import TensorTrain, extract, plan_for
        >>> from tensorfact.lab import nano
        >>> base, tuned = nano(), nano()
        >>> weight = tuned.blocks[0].attn.proj.weight
        >>> with torch.no_grad():
        ...     _ = weight.add_(torch.outer(torch.ones(96), torch.ones(96)), alpha=0.01)
        >>> found = extract(base, tuned, plan_for(base), TensorTrain("full"), tolerance=1e-3)
        >>> found.changes[0].format, found.errors["blocks.0.attn.proj.weight"] < 1e-3
        (TensorTrain(rank=(1, 1), order=None), True)
    """
    check_scale("extract", scale)
    flag(keep, "extract: keep", DataError)
    callback(progress, "extract: progress", AdaptError)
    weights = Increments(base, tuned, plan, model)
    resolved = weights.resolved
    if keep and not weights.has_model:
        raise DataError("extract: keep=True needs a model, whose tensors these are", fix="pass model=model")
    formats = formats_of(format, [tensor.name for tensor in resolved.tensors])
    changes, cores = [], {}
    errors: dict[str, float] = {}
    for done, tensor in enumerate(resolved.tensors, 1):
        tensor.network(formats[tensor.name])  # raise early, before any weight is read
        increments = weights.of(tensor)
        dense = tensor.gather(increments) / scale
        found = formats[tensor.name].decompose(dense, tensor.modes, tolerance=tolerance)
        cores[tensor.name] = found.cores
        errors |= _errors(tensor, found.dense() * scale, increments)
        size = math.prod(tensor.shape)
        changes.append(Change(tensor.name, "dense", size, found.format, found.num_parameters, found.error))
        progress("decomposing", done, len(resolved.tensors))
    left_over, kept = _left_over(weights, keep=keep)
    description = AdapterDescription(
        plan,
        {change.tensor: change.format for change in changes},
        dict.fromkeys(cores, float(scale)),
        0.0,
        Fingerprint.of(weights.before, resolved.parameters, weights.own_names(kept)),
        {tensor.name: tensor.modes for tensor in resolved.tensors},
    )
    state = AdapterState(description, {}).replaced(description.formats, cores, kept)
    return Extraction(state, tuple(changes), errors, left_over)


def check_scale(owner: str, scale: object) -> None:
    """Raise unless a scale is finite and not 0.

    Args:
        owner: The function, for the message.
        scale: The scale given by the user.

    Raises:
        AdaptError: The scale is 0 or not a finite number.
    """
    finite_number(scale, f"{owner}: scale", AdaptError, fits=bool, expected="a finite number that is not 0")


def _named(weights: Weights) -> Mapping[str, Tensor]:
    if isinstance(weights, nn.Module):
        refuse_adapted(weights)
        return weights.state_dict()
    if isinstance(weights, (str, os.PathLike)):
        return StoredTensors(weights)
    plain = isinstance(weights, Mapping) and all(isinstance(name, str) for name in weights)
    if not plain or not all(isinstance(each, Tensor) for each in weights.values()):
        raise DataError("extract: weights", expected="a model, a state dict or a file", got=type(weights).__name__)
    return weights


def _skeleton(weights: Mapping[str, Tensor]) -> nn.Module:
    """Build a module tree on the meta device with parameters of these names and shapes."""
    root = nn.Module()
    if odd := [name for name in weights if not _is_path(name, weights)]:
        raise DataError(
            f"extract: {odd[0]!r} cannot be the name of a parameter",
            cause="a part of the name is empty, an attribute of nn.Module, or the name of another weight",
            fix="pass model=, a model of this architecture",
        )
    for name in weights:
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        weight = weights[name]
        empty = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
        module.register_parameter(last, nn.Parameter(empty, requires_grad=False))
    return root


def _is_path(name: str, weights: Mapping[str, Tensor]) -> bool:
    """Return whether a name can be that of a parameter in a module tree."""
    parts = name.split(".")
    above = {".".join(parts[:at]) for at in range(1, len(parts))}
    return all(part and not hasattr(nn.Module(), part) for part in parts) and not above & weights.keys()


def _check(resolved: ResolvedPlan, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Check names and shapes against the plan before anything is decomposed."""
    shapes = {view.parameter: view.shape for tensor in resolved.tensors for view in tensor.views}
    for name, shape in shapes.items():
        for which, weights in (("base", before), ("tuned", after)):
            found = _shape(weights, name)
            if found != shape:
                raise DataError(
                    f"extract: the {which} weights at {name!r}",
                    expected=f"shape {shape}",
                    got=f"shape {found}" if found is not None else "no such tensor",
                    cause="weights of another architecture, or names with an additional prefix",
                    fix="pass the weights of one model before and after fine-tuning",
                )


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    if name not in weights:
        return None
    return weights.shapes[name] if isinstance(weights, StoredTensors) else tuple(weights[name].shape)


def _difference(name: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Tensor:
    old, new = (dense_values(weights[name].detach()).cpu() for weights in (before, after))
    wide = torch.promote_types(torch.promote_types(old.dtype, new.dtype), torch.float32)
    if wide.is_complex:
        raise DataError(f"extract: {name!r}", expected="a real dtype", got=f"{old.dtype} and {new.dtype}")
    found = new.to(wide) - old.to(wide)
    if not bool(found.isfinite().all()):
        raise DataError(
            f"extract: {name!r} holds NaN or infinity",
            got=f"{int((~found.isfinite()).sum()):,} of {found.numel():,} values",
            cause="diverged training, or a damaged file",
            fix="extract from an earlier checkpoint",
        )
    return found


def _errors(tensor: TensorGroup, found: Tensor, increments: Mapping[str, Tensor]) -> dict[str, float]:
    errors = {}
    for name, approximation in tensor.scatter(found).items():
        norm = float(torch.linalg.vector_norm(increments[name]))
        lost = float(torch.linalg.vector_norm(increments[name] - approximation))
        errors[name] = lost / norm if norm else math.inf if lost else 0.0
    return errors


def _left_over(weights: Increments, *, keep: bool) -> tuple[tuple[LeftOver, ...], dict[str, Tensor]]:
    """Compare the parameters that the plan does not cover, and return the values to store."""
    before, after = weights.before, weights.after
    parameters, covered = base_parameters(weights.host), set(weights.resolved.parameters)
    tensors = base_tensors(weights.host)
    aliases = {id(parameters[name]) for name in covered}
    names = [n for n in dict.fromkeys([*before, *after]) if n not in covered and id(parameters.get(n)) not in aliases]
    found = [(name, *_compared(name, before, after)) for name in names]
    kept = {
        name: _sound(name, after)
        for name, change, _ in found
        if keep and change is not None and change and name in tensors  # NaN counts as a change
    }
    buffers = head_buffers(weights.host, kept) if keep else {}
    kept |= {name: _sound(name, after) for name in buffers if name in after}
    shapes = {name: _shape(after, name) or _shape(before, name) or () for name in names}
    left = [LeftOver(name, shapes[name], change, name in kept, note) for name, change, note in found]
    return (*_frozen_parts(weights), *left), kept


def _frozen_parts(weights: Increments) -> Iterator[LeftOver]:
    """Compare the parts of covered parameters that the plan leaves frozen."""
    for tensor in weights.resolved.tensors:
        for view in tensor.views:
            apart = float(
                torch.linalg.vector_norm(view.frozen_part(_difference(view.parameter, weights.before, weights.after)))
            )
            if apart:
                whole = float(torch.linalg.vector_norm(weights.before[view.parameter].detach().cpu().double()))
                yield LeftOver(
                    f"{view.parameter}, frozen part", view.shape, apart / whole if whole else math.inf, False
                )


def _sound(name: str, weights: Mapping[str, Tensor]) -> Tensor:
    value = weights[name].detach().cpu().clone()
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise DataError(f"extract: {name!r} holds NaN or infinity", fix="pass keep=False, or use torch.nan_to_num")
    return value


def _compared(name: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> tuple[float | None, str]:
    shapes = _shape(before, name), _shape(after, name)
    if None in shapes:
        return None, "only in the tuned weights" if shapes[0] is None else "only in the base weights"
    if shapes[0] != shapes[1]:
        return None, f"was {'x'.join(map(str, shapes[0] or ()))}"
    old, new = before[name].detach().cpu().double(), after[name].detach().cpu().double()
    norm, change = float(torch.linalg.vector_norm(old)), float(torch.linalg.vector_norm(new - old))
    return (change / norm if norm else math.inf if change else 0.0), ""

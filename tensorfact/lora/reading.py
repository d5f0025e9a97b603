"""`from_lora`: read LoRA files of peft and LyCORIS as adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..algebra import Change, Recompression
from ..algebra.conversion import at_rank
from ..algebra.extraction import check_scale
from ..algebra.recompression import recompress, stored
from ..common.checks import AnyPath, callback, of_type
from ..common.progress import Progress, silent
from ..errors import AdaptError, DataError, PlanError, naming, nearest
from ..formats import Format, FormatLike, MatrixBatch
from ..formats.rank import Rank
from ..model.parameters import base_tensors, each_once
from ..plan import ResolvedPlan, TensorizationPlan, View
from ..plan.families.by_shape import plan_of_matrices
from ..plan.tensors import formats_of
from ..storage import AdapterState
from ..storage.description import AdapterDescription
from ..storage.fingerprint import Fingerprint
from .files import StoredLayer, read_layers
from .matrices import LowRankIncrement, stacked


def from_lora(
    model: nn.Module,
    path: AnyPath,
    plan: TensorizationPlan | None = None,
    format: FormatLike | Mapping[str, FormatLike] | None = None,
    *,
    rank: Rank | None = None,
    tolerance: float | None = None,
    scale: float = 1.0,
    progress: Progress = silent,
) -> Recompression:
    """Read a LoRA, LoHa or LoKr file as an adapter: exactly, or recompressed across layers, in factor space.

    Args:
        model: The base model; it is only read.
        path: A folder of peft, or a safetensors file of peft or LyCORIS.
        plan: Which weights fold into which tensors; it must cover the file's layers. Default: the file's own layers,
            those of equal shape and rank in one tensor.
        format: One format for all tensors, or formats by group name. Default: matrix batches of the file's ranks,
            which are exact.
        rank: A rank to use instead of the format's own.
        tolerance: The relative error allowed for each tensor; the lowest ranks that reach it are used, at most the
            format's own. Rank 'full' sets no bound.
        scale: The scale of the adapter, for later training; its increment does not depend on it.
        progress: Called after each tensor.

    Returns:
        The adapter, to pass to `load_adapter`; the true relative error of each tensor; and, as `shrank`, how many times
        fewer numbers it has.

    Raises:
        CheckpointError: A file is missing or damaged, or its description cannot be read.
        DataError: A layer of the file is not in the model or the plan, or is of another shape or kind.
        RankError: A tensor does not admit the rank, or the format's rank does not reach the tolerance.

    Examples:
        >>> import tempfile
        >>> from tensorfact import TensorTrain, adapt, from_lora, plan_for, to_lora
        >>> from tensorfact.lab import nano
        >>> model, folder = nano(), tempfile.mkdtemp()
        >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=4))
        >>> _ = to_lora(adapter, model, folder)
        >>> from_lora(nano(), folder).changes[0].format
        MatrixBatch(rank=4)
        >>> from_lora(nano(), folder, adapter.plan, TensorTrain(rank=4)).parameters
        1920
    """
    check_scale("from_lora", scale)
    if plan is not None:
        of_type(plan, TensorizationPlan, "from_lora: plan", PlanError, expected="a plan", example="plan_for(model)")
    callback(progress, "from_lora: progress", AdaptError)
    with naming(path):
        stored_layers, kept = read_layers(model, path)
    plan = _plan_of(model, stored_layers) if plan is None else plan
    resolved = plan.resolve(model)
    with naming(path):
        layers = _covered(stored_layers, kept, resolved)
    names = [tensor.name for tensor in resolved.tensors]
    formats = _exact(resolved, layers) if format is None else formats_of(format, names)
    formats = {name: each if rank is None else at_rank(each, rank, name) for name, each in formats.items()}
    changes, cores = [], {}
    for done, tensor in enumerate(resolved.tensors, 1):
        tensor.network(formats[tensor.name])
        term = dataclasses.replace(stacked(tensor, layers), weight=1.0 / scale)
        exact = recompress([term], tensor.modes, formats[tensor.name], tolerance=tolerance)
        found = stored([term], exact, torch.float32, tolerance)
        cores[tensor.name] = found.cores
        own = [layers[view.parameter] for view in tensor.views if view.parameter in layers]
        numbers = sum(layer.numbers for layer in own)
        label = f"{len(own)} of {len(tensor.views)} layers"
        changes.append(Change(tensor.name, label, numbers, found.format, found.num_parameters, found.error))
        progress("recompressing", done, len(resolved.tensors))
    formats = {change.tensor: change.format for change in changes}
    modes = {tensor.name: tensor.modes for tensor in resolved.tensors}
    marked = Fingerprint.of(each_once(base_tensors(model), kept), resolved.parameters)
    description = AdapterDescription(plan, formats, dict.fromkeys(formats, float(scale)), 0.0, marked, modes)
    return Recompression(AdapterState(description, {}).replaced(formats, cores, kept), tuple(changes))


def _plan_of(model: nn.Module, found: Mapping[str, StoredLayer]) -> TensorizationPlan:
    """Return a plan of the layers in a file, with one group for each rank."""
    groups: dict[str, list[str]] = {}
    for name, layer in found.items():
        groups.setdefault(f"rank{layer.rank}", []).append(name)
    return plan_of_matrices(model, groups)


def _exact(resolved: ResolvedPlan, layers: Mapping[str, LowRankIncrement]) -> dict[str, Format]:
    """Return the format of each tensor that holds the increments without an error."""
    formats: dict[str, FormatLike] = {}
    for tensor in resolved.tensors:
        own = [layers[view.parameter].rank for view in tensor.views if view.parameter in layers]
        formats[tensor.name] = MatrixBatch(max(own, default=1))
    return resolved.fitted(formats)


def _covered(
    found: Mapping[str, StoredLayer], kept: Mapping[str, Tensor], resolved: ResolvedPlan
) -> dict[str, LowRankIncrement]:
    """Return the increments in a file, which fit the plan."""
    views = {view.parameter: view for tensor in resolved.tensors for view in tensor.views}
    for name, layer in found.items():
        _check_layer(name, layer, views)
    if both := sorted(kept.keys() & views.keys()):
        raise DataError(
            f"from_lora: the file stores {both[0]!r} whole, but the plan covers it", fix="leave it out of the plan"
        )
    layers = {name: layer.increment() for name, layer in found.items()}
    for name, increment in layers.items():
        _check_frozen(name, increment, views[name])
    return layers


def _check_layer(name: str, layer: StoredLayer, views: Mapping[str, View]) -> None:
    if name not in views:
        raise DataError(
            f"from_lora: the plan does not cover {name!r}, which the file changes",
            got=f"{name!r}{nearest(name, views)}",
            fix="pass a plan that covers all of the file's layers, such as plan_for(model)",
        )
    view = views[name]
    if layer.shape != (view.shape[::-1] if view.transposed else view.shape):
        raise DataError(
            f"from_lora: {name!r}", expected=f"matrices of a layer {view.shape}", got=f"of a layer {layer.shape}"
        )


def _check_frozen(name: str, layer: LowRankIncrement, view: View) -> None:
    if all(len(view.kept[axis]) == view.sizes[axis] for axis in view.order):
        return
    dense = layer.up @ layer.down
    frozen = view.frozen_part(dense.t() if view.transposed else dense)
    if float(torch.linalg.vector_norm(frozen)) > 1e-9 * float(torch.linalg.vector_norm(dense)):
        raise DataError(
            f"from_lora: the file changes a part of {name!r} that the plan leaves frozen",
            got=f"{view.rule!r}",
            fix="list the part's coordinate in the rule instead of None",
        )

"""From LoRA: the files of peft and LyCORIS as adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import nn

from ..algebra import Change, Recompression
from ..algebra.conversion import at_rank
from ..algebra.extraction import check_scale
from ..algebra.recompression import recompress, stored
from ..common.checks import AnyPath
from ..common.progress import Progress, silent
from ..errors import DataError, nearest
from ..formats import Format
from ..formats.rank import Rank
from ..model.parameters import base_parameters
from ..plan import TensorizationPlan, View
from ..plan.tensors import formats_of
from ..storage import AdapterState
from ..storage.description import AdapterDescription, fingerprint
from .files import read_layers
from .matrices import LowRankIncrement, stacked


def from_lora(
    model: nn.Module,
    path: AnyPath,
    plan: TensorizationPlan,
    format: Format | Mapping[str, Format],
    *,
    rank: Rank | None = None,
    tolerance: float | None = None,
    scale: float = 1.0,
    progress: Progress = silent,
) -> Recompression:
    """Recompress a LoRA, LoHa or LoKr across layers, in factor space.

    Args:
        model: The base model; it is not changed.
        path: A folder of peft's, or a safetensors file of peft's or LyCORIS's.
        plan: Which weights fold into which tensors; it must cover the file's layers.
        format: The format: one for all tensors, or one for each group's name.
        rank: The format's rank, if it is to be another.
        tolerance: The relative error allowed for each tensor; the lowest ranks that reach it are found, none above the
            format's own. Rank 'full' sets no bound.
        scale: The scale that the adapter gets; its increment does not depend on it.
        progress: Called after each tensor.

    Returns:
        The adapter, to be given to `load_adapter`; the true relative error of each tensor; and, as `shrank`, how many
        times fewer numbers it takes.

    Raises:
        CheckpointError: A file is missing or damaged, or its description cannot be read.
        DataError: The file has a layer that the model or the plan does not have, of another shape or kind.
        RankError: The tensor does not admit this rank, or a tolerance that the format's rank does not reach.

    Examples:
        >>> import tempfile
        >>> from tensorfact import TensorTrain, adapt, from_lora, plan_for, to_lora
        >>> from tensorfact.lab import nano
        >>> model, folder = nano(), tempfile.mkdtemp()
        >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=4))
        >>> _ = to_lora(adapter, model, folder)
        >>> from_lora(nano(), folder, adapter.plan, TensorTrain(rank=4)).parameters
        1920
    """
    check_scale("from_lora", scale)
    resolved = plan.resolve(model)
    layers, kept = read_layers(model, path)
    views = {view.parameter: view for tensor in resolved.tensors for view in tensor.views}
    for name, layer in layers.items():
        _check_layer(name, layer, views)
    if both := sorted(kept.keys() & views.keys()):
        raise DataError(f"from_lora: the file stores {both[0]!r} as it is, and the plan covers it", fix="leave it out")
    formats = formats_of(format, [tensor.name for tensor in resolved.tensors])
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
    marked = fingerprint(base_parameters(model), resolved.parameters)
    description = AdapterDescription(plan, formats, dict.fromkeys(formats, float(scale)), 0.0, marked, modes)
    return Recompression(AdapterState(description, {}).replaced(formats, cores, kept), tuple(changes))


def _check_layer(name: str, layer: LowRankIncrement, views: Mapping[str, View]) -> None:
    if name not in views:
        raise DataError(
            f"from_lora: the plan does not cover {name!r}, which the file changes",
            got=f"{name!r}{nearest(name, views)}",
            fix="pass a plan that covers all of the file's layers, such as plan_for(model)",
        )
    view = views[name]
    shape = view.shape
    found = (layer.up.shape[0], layer.down.shape[1])
    if found != (shape[::-1] if views[name].transposed else shape):
        raise DataError(f"from_lora: {name!r}", expected=f"matrices of a layer {shape}", got=f"of a layer {found}")
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

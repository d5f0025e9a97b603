"""What the factors of an adapter start from, if not from random numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

from torch import Tensor

from ..algebra.recompression import recompress
from ..algebra.term import terms_of
from ..errors import AdaptError, DataError, PlanError, nearest
from ..formats.common import zero_core
from ..model.parameters import base_parameters
from ..plan import TensorGroup
from ..storage import AdapterState
from ..storage.description import sizes_of
from ..storage.state import HasState, state_of
from .adapter import Adapter
from .factors import Factors

HOSVD: Literal["hosvd"] = "hosvd"

Init = None | HasState | AdapterState | str | os.PathLike[str] | Mapping[str, Tensor]
"""What `adapt` takes as `init`."""

Cores = Mapping[str, Tensor]


def starting(init: Init, adapter: Adapter) -> dict[str, Cores]:
    """Return the cores that an adapter starts from, by tensor name; none for random ones.

    Args:
        init: As in `adapt`.
        adapter: The adapter, with fresh factors, before it is attached.

    Raises:
        AdaptError: `init` is none of what it may be.
        PlanError: The adapter to start from has another plan.
        DataError: An increment is missing, or of another shape than its parameter.
    """
    if init is None:
        return {}
    tensors = adapter.resolved.tensors
    if isinstance(init, str) and init == HOSVD:
        return {tensor.name: _directions(tensor, adapter) for tensor in tensors}
    if isinstance(init, Mapping):
        return {tensor.name: _increment(tensor, init, adapter) for tensor in tensors}
    given: object = init
    is_file = isinstance(given, os.PathLike) or (isinstance(given, str) and bool(Path(given).suffix))
    if not is_file and not isinstance(getattr(given, "state", given), AdapterState):
        raise AdaptError(
            "adapt: init",
            expected="None, 'hosvd', an adapter, the file of one, or increments by parameter name",
            got=repr(given)[:80],
            fix="init='hosvd', or init='adapter.safetensors'",
        )
    state = state_of(init)
    own = {tensor.name: tensor.modes for tensor in tensors}
    if dict(state.description.modes) != own:
        raise PlanError(
            "adapt: init has other tensors than the plan",
            expected=" and ".join(map(sizes_of, own.values())),
            got=" and ".join(map(sizes_of, state.description.modes.values())),
            fix="adapt(model, init.description.plan, ...) on a model of the same size",
        )
    return {tensor.name: _converted(tensor, state, adapter) for tensor in tensors}


def _directions(tensor: TensorGroup, adapter: Adapter) -> Cores:
    """Decompose the base weights; one core stays zero, the others get the size of random ones."""
    factors = cast("Factors", adapter.factors[tensor.name])
    dense = tensor.gather({name: p.detach().float() for name, p in base_parameters(adapter.model).items()})
    found = adapter.formats[tensor.name].decompose(dense, tensor.modes)
    zero, cores = zero_core(factors.network).name, dict(factors.named_cores())
    trained = {core.name for core in factors.network.cores if core.trained}
    for name, core in found.cores.items():
        if name not in trained:
            continue
        size = 0.0 if name == zero else factors.deviations[name] * math.sqrt(core.numel())
        cores[name] = core * (size / (float(core.norm()) or 1.0))
    return cores


def _increment(tensor: TensorGroup, increments: Mapping[str, Tensor], adapter: Adapter) -> Cores:
    for view in tensor.views:
        given = increments.get(view.parameter)
        if not isinstance(given, Tensor) or tuple(given.shape) != view.shape:
            got = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else "nothing"
            raise DataError(
                f"adapt: init has no increment of {view.parameter!r}",
                expected=f"a tensor of shape {view.shape}",
                got=f"{got}{nearest(view.parameter, increments)}",
                fix="give one for every parameter of the plan: {name: tuned[name] - base[name], ...}",
            )
        if bool(view.frozen_part(given).any()):
            raise DataError(
                f"adapt: init changes a part of {view.parameter!r} that the plan leaves frozen",
                fix="set it to zero, or list the part's coordinate in the plan",
            )
    parts = {view.parameter: increments[view.parameter].detach().float() for view in tensor.views}
    scale = _scale(tensor, adapter)
    return adapter.formats[tensor.name].decompose(tensor.gather(parts) / scale, tensor.modes).cores


def _converted(tensor: TensorGroup, state: AdapterState, adapter: Adapter) -> Cores:
    weight = state.description.scales[tensor.name] / _scale(tensor, adapter)
    return recompress(terms_of(state, tensor.name, weight), tensor.modes, adapter.formats[tensor.name]).cores


def _scale(tensor: TensorGroup, adapter: Adapter) -> float:
    scale = adapter.scales[tensor.name]
    if not scale:
        raise AdaptError(f"adapt: init with the scale 0 of tensor {tensor.name!r}", fix="scale=1.0")
    return scale

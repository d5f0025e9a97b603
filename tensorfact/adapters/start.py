"""Initial factors from the `init` argument of `adapt`: HOSVD of the base weights, another adapter, or increments."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

from torch import Tensor

from ..algebra.recompression import recompress
from ..algebra.term import terms_of
from ..common.checks import quoted
from ..errors import AdaptError, DataError, PlanError, nearest
from ..formats import Format
from ..formats.common import zero_core
from ..model.parameters import base_parameters
from ..model.values import dense_values
from ..network import Core
from ..network.starts import GIVEN
from ..plan import TensorGroup
from ..storage import AdapterState
from ..storage.description import sizes_of
from ..storage.state import HasState, state_of
from .adapter import Adapter
from .factors import Factors

HOSVD: Literal["hosvd"] = "hosvd"

Init = None | HasState | AdapterState | str | os.PathLike[str] | Mapping[str, Tensor]
"""The `init` argument of `adapt`."""

Cores = Mapping[str, Tensor]


def starting(init: Init, adapter: Adapter) -> dict[str, Cores]:
    """Return the initial cores of an adapter, by tensor name; an empty dict for random ones.

    Args:
        init: The `init` argument of `adapt`.
        adapter: The adapter with fresh factors, before it is attached.

    Raises:
        AdaptError: `init` has an unsupported type or value.
        PlanError: The adapter given as `init` has another plan.
        DataError: An increment is missing, or has another shape than its parameter.
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
    is_folder = isinstance(given, (str, os.PathLike)) and os.path.isdir(given)
    if is_folder or not (is_file or isinstance(getattr(given, "state", given), AdapterState)):
        raise AdaptError(
            "adapt: init",
            expected="None, 'hosvd', an adapter, the path of an adapter file, or increments by parameter name",
            got=quoted(given),
            fix="init='hosvd' or init='adapter.safetensors'",
        )
    state = state_of(init)
    own = {tensor.name: tensor.modes for tensor in tensors}
    if dict(state.description.modes) != own:
        raise PlanError(
            "adapt: the tensors of init do not match the plan",
            expected=" and ".join(map(sizes_of, own.values())),
            got=" and ".join(map(sizes_of, state.description.modes.values())),
            fix="adapt a model of the same size with the plan that init was made with",
        )
    return {tensor.name: _converted(tensor, state, adapter) for tensor in tensors}


def _directions(tensor: TensorGroup, adapter: Adapter) -> Cores:
    """Decompose the base weights; the zero core stays zero, the others are scaled to the norm of random cores.

    Frozen cores are set too, as in LoRA-XS, whose two outer matrices are directions of the base weights. What a format
    gives stays as it is.
    """
    factors, format = cast("Factors", adapter.factors[tensor.name]), adapter.formats[tensor.name]
    weights = base_parameters(adapter.model)
    dense = tensor.gather({v.parameter: dense_values(weights[v.parameter].detach()).float() for v in tensor.views})
    found = format.decompose(dense, tensor.modes)
    zero, cores = zero_core(factors.network).name, dict(factors.named_cores())
    for core in factors.network.cores:
        if core.start == GIVEN:
            continue
        value = found.cores[core.name]
        if not core.trained:
            _check_directions(core, value, dense, tensor, format)
        size = 0.0 if core.name == zero else factors.deviations[core.name] * math.sqrt(value.numel())
        cores[core.name] = value * (size / (float(value.norm()) or 1.0))
    return cores


def _check_directions(core: Core, value: Tensor, dense: Tensor, tensor: TensorGroup, format: Format) -> None:
    """Refuse a frozen core without directions: zero where weights or ranks are missing, so that nothing could train."""
    modes = {mode.name: dim for dim, mode in enumerate(tensor.modes)}
    along = {mode.name for mode in tensor.modes if mode.side != "stack"}
    missing = "" if bool(dense.any()) else "zeros everywhere"
    for dim, leg in enumerate(core.legs):
        found = dense.movedim(modes[leg], 0) if leg in modes else value.movedim(dim, 0)
        empty = ~found.reshape(len(found), -1).any(1)
        if leg not in along and bool(empty.any()):
            missing = missing or f"zeros at index {int(empty.nonzero()[0])} of {leg!r}"
    if missing:
        raise AdaptError(
            f"adapt: tensor {tensor.name!r}: init='hosvd' cannot set the frozen core {core.name!r} of {format}",
            expected="base weights with a direction for each index of the core",
            got=missing,
            cause="weights that are zero, or a rank above that of the weights",
            fix="init=None, or a lower rank",
        )


def _increment(tensor: TensorGroup, increments: Mapping[str, Tensor], adapter: Adapter) -> Cores:
    for view in tensor.views:
        given = increments.get(view.parameter)
        if not isinstance(given, Tensor) or tuple(given.shape) != view.shape:
            got = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else "nothing"
            raise DataError(
                f"adapt: init[{view.parameter!r}]",
                expected=f"a tensor of shape {view.shape}",
                got=f"{got}{nearest(view.parameter, increments)}",
                fix="pass an increment for each parameter of the plan, such as tuned[name] - base[name]",
            )
        if bool(view.frozen_part(given).any()):
            raise DataError(
                f"adapt: init changes a part of {view.parameter!r} that the plan leaves frozen",
                fix="set this part of the increment to zero, or include its coordinates in the plan",
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
        raise AdaptError(f"adapt: tensor {tensor.name!r}: init needs a scale other than 0", fix="scale=1.0")
    return scale

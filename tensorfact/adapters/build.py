"""Adapt a model with fresh factors, or with those of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from ..errors import AdaptError
from ..formats import Format
from ..model.head import head_parameters
from ..model.memory import refuse_shared_memory
from ..model.parameters import base_parameters, refuse_adapted
from ..network import Dropout
from ..plan import TensorizationPlan
from ..plan.tensors import per_tensor
from ..storage.description import FACTORS, HEAD, START
from ..storage.state import AdapterSource, state_of
from .adapter import Adapter
from .factors import Factors, named
from .options import AdaptOptions, Route, fresh_seed
from .scale import Scale, scale_of
from .start import Init, starting


def adapt(
    model: nn.Module,
    plan: TensorizationPlan,
    format: Format | Mapping[str, Format],
    *,
    scale: Scale | Mapping[str, Scale] = 1.0,
    dropout: float | Mapping[str, float] = 0.0,
    route: Route = "auto",
    train_head: bool | str = True,
    seed: int | None = None,
    optimize: Any = "auto",
    check: bool = True,
    recompute: bool = False,
    init: Init = None,
    subtract_start: bool = False,
) -> Adapter:
    """Give a model trainable factors of its weights' increment, in place; the base freezes, the head trains.

    The output does not change until training does. An error leaves the model as it was.

    Args:
        model: The model.
        plan: Which weights fold into which tensors.
        format: How each tensor is factored: one format, or one for each group's name.
        scale: Scale s of the update W + s dW: a number, or LoRA's `Alpha(alpha)`, which is divided by the rank; or one
            for each group's name.
        dropout: Probability with which, in training, a rank component of the core that starts at zero is dropped for
            one call; or probabilities of `rank`, of entries of the dense `increment`, and of the `factors`, by name.
        route: `activation` never forms the increment, `weight` forms it; `auto` picks the cheaper for each weight.
        train_head: Train and store the head that `pretrained_cfg["classifier"]` names, or the module of this name.
        seed: Seed of the random cores; by default they come from torch's own state.
        optimize: What plans the order of contraction: anything opt_einsum accepts.
        check: Refuse a parameter that the model does not use. It is found by one forward pass in evaluation mode where
            an example input is known (timm's `pretrained_cfg`, transformers' `dummy_inputs`), else in the first one.
        recompute: Compute the outputs of torch's normalisations and activation functions again in the backward pass
            where an adapted layer would keep them: less memory, for a little time.
        init: What the factors start from. None: random numbers. `"hosvd"`: the leading directions of the stacked base
            weights, found by the format's decomposition. Either way the increment is zero. Or the increment to start
            from: another adapter, one without a model, the path of a file, or increments by parameter name, as
            `Adapter.delta` returns.
        subtract_start: Subtract from the increment what it starts from, a frozen copy, so that any start leaves the
            output unchanged. What is drawn from `seed` is not stored; what `init` gives is.

    Returns:
        The adapter, also found as `model.tensorfact`.

    Raises:
        PlanError: The plan does not fit the model.
        RankError: The tensor does not admit this rank.
        AdaptError: The model is adapted already, a number is out of range, or a parameter cannot be adapted.
        UnusedError: The model does not use a parameter.
        DataError: An increment to start from is missing or of another shape.

    Source: Jie & Deng, FacT, AAAI 2023.

    Examples:
        >>> from tensorfact import TensorTrain, adapt, plan_for
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=8), seed=0)
        >>> adapter.num_parameters
        6144
        >>> sorted(name for name, p in model.named_parameters() if p.requires_grad)[:2]
        ['head.bias', 'head.weight']
    """
    options = AdaptOptions(
        dropout=Dropout.of(dropout),
        route=route,
        optimize=optimize,
        check=check,
        recompute=recompute,
        seed=fresh_seed() if seed is None else seed,
    )
    adapter = _built(model, plan, format, scale, head_parameters(model, train_head), options)
    for name, cores in starting(init, adapter).items():
        cast("Factors", adapter.factors[name]).assign(cores)
    if subtract_start:
        adapter.subtract_start()
    return _attached(adapter, options)


def load_adapter(
    model: nn.Module,
    path: AdapterSource,
    *,
    route: Route = "auto",
    check_base: bool = True,
    optimize: Any = "auto",
    check: bool = True,
    recompute: bool = False,
) -> Adapter:
    """Adapt a model with the factors, and the head, of a file.

    Args:
        model: The base model the file was trained on, with a head of the same size.
        path: A file that `Adapter.save` wrote, an adapter without a model, or one on another model.
        route: As in `adapt`.
        check_base: Refuse a model whose base weights are not those the adapter was trained on.
        optimize: As in `adapt`.
        check: As in `adapt`.
        recompute: As in `adapt`.

    Returns:
        The adapter.

    Raises:
        CheckpointError: The file is missing, damaged, or does not fit the model's sizes.
        FingerprintError: The file was made for another base model.
        PlanError: The file's plan does not fit the model.
        AdaptError: The model is adapted already.

    Examples:
        >>> import tempfile, pathlib
        >>> from tensorfact import TensorTrain, adapt, load_adapter, plan_for
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=4))
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "adapter.safetensors"
        >>> adapter.save(path)
        >>> load_adapter(nano(), path).num_parameters
        1920
    """
    refuse_adapted(model)
    state = state_of(path, model, check_base=check_base)
    description, head = state.description, state.description.head_of(model)
    parameters = base_parameters(model)
    options = AdaptOptions(
        dropout=Dropout.of(description.dropout),
        route=route,
        optimize=optimize,
        check=check,
        recompute=recompute,
        seed=description.seed,
    )
    trained = tuple(name for name in head if name in parameters)
    adapter = _built(model, description.plan, description.formats, description.scales, trained, options)
    if description.subtracts_start:
        adapter.subtract_start()
    with torch.no_grad():
        for prefix, factors in ((FACTORS, adapter.factors), (START, adapter.starts)):
            for name, core in named(factors).items():
                core.copy_(state.tensors[prefix + name])
    _attached(adapter, options)
    with torch.no_grad():
        for name, tensor in head.items():
            tensor.copy_(state.tensors[HEAD + name])
    return adapter


def _built(
    model: nn.Module,
    plan: TensorizationPlan,
    format: Format | Mapping[str, Format],
    scale: Scale | Mapping[str, Scale],
    head: tuple[str, ...],
    options: AdaptOptions,
) -> Adapter:
    """Return an adapter with fresh factors that is not on its model yet."""
    refuse_adapted(model)
    if not isinstance(plan, TensorizationPlan):
        raise AdaptError("adapt: plan", expected="a TensorizationPlan", got=repr(plan), fix="plan_for(model)")
    resolved = plan.resolve(model)
    formats = resolved.formats(format)
    given = per_tensor(scale, list(formats), "scale")
    scales = {tensor.name: scale_of(given[tensor.name], formats[tensor.name], tensor) for tensor in resolved.tensors}
    refuse_shared_memory(model, resolved.parameters)
    parameters = base_parameters(model)
    trained = {id(parameters[name]) for name in head}
    if both := [name for name in resolved.parameters if id(parameters[name]) in trained]:
        raise AdaptError(
            f"adapt: {both[0]!r} is in the plan and in the head that trains",
            fix="leave the head out of the plan, or pass train_head=False",
        )
    return Adapter(model, plan, resolved, formats, scales, head, options)


def _attached(adapter: Adapter, options: AdaptOptions) -> Adapter:
    adapter.attach()
    if options.check:
        try:
            adapter.watch.start()
        except BaseException:
            adapter.remove()
            raise
    return adapter

"""Create an adapter with fresh factors (`adapt`), or load one from a file (`load_adapter`)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast, overload

import torch
from torch import nn

from ..common.checks import flag, quoted
from ..errors import AdaptError
from ..formats import Format, FormatLike
from ..model.head import head_parameters, matching_parameters, stated_head
from ..model.memory import refuse_shared_memory
from ..model.parameters import ATTRIBUTE, base_parameters, each_once, refuse_adapted
from ..network import Dropout
from ..network.order import Optimize
from ..plan import ResolvedPlan, TensorizationPlan, plan_for
from ..plan.tensors import per_tensor
from ..storage import AdapterState
from ..storage.description import FACTORS, HEAD, START
from ..storage.state import AdapterSource, state_of
from .adapter import Adapter
from .attached import Attached
from .banks import Bank
from .banks.tasks import Tasks, TasksLike, as_tasks
from .factors import Factors, named
from .options import AdaptOptions, Route, fresh_seed
from .scale import AUTO, Scale, derived, scale_of
from .start import Init, starting
from .turns import one_at_a_time

AnyAttached = TypeVar("AnyAttached", bound=Attached)


@overload
def adapt(
    model: nn.Module,
    plan: TensorizationPlan | None = None,
    format: FormatLike | Mapping[str, FormatLike] = "tt:rank=8",
    *,
    scale: Scale | Mapping[str, Scale] = AUTO,
    dropout: float | Mapping[str, float] = 0.0,
    route: Route = "auto",
    train_head: bool | str | Sequence[str] = True,
    train: str | Sequence[str] = (),
    seed: int | None = None,
    optimize: Optimize = "auto",
    check: bool = True,
    recompute: bool = False,
    init: Init = None,
    subtract_start: bool = False,
    tasks: None = None,
) -> Adapter: ...


@overload
def adapt(
    model: nn.Module,
    plan: TensorizationPlan | None = None,
    format: FormatLike | Mapping[str, FormatLike] = "tt:rank=8",
    *,
    tasks: TasksLike,
    **options: Any,
) -> Bank: ...


def adapt(  # type: ignore[misc]  # the options of a bank are those of an adapter
    model: nn.Module,
    plan: TensorizationPlan | None = None,
    format: FormatLike | Mapping[str, FormatLike] = "tt:rank=8",
    *,
    scale: Scale | Mapping[str, Scale] = AUTO,
    dropout: float | Mapping[str, float] = 0.0,
    route: Route = "auto",
    train_head: bool | str | Sequence[str] = True,
    train: str | Sequence[str] = (),
    seed: int | None = None,
    optimize: Optimize = "auto",
    check: bool = True,
    recompute: bool = False,
    init: Init = None,
    subtract_start: bool = False,
    tasks: TasksLike | None = None,
) -> Adapter | Bank:
    """Adapt a model in place: add trainable tensor-network factors to its weights, freeze the rest, train the head.

    The increment starts at zero unless `init` gives one. On an error the model is left unchanged.

    Args:
        model: The model to adapt.
        plan: The weights to adapt, and how they fold into tensors; default: `plan_for(model)`.
        format: How each tensor is factored: one format, or formats by group name. A format is an object, such as
            `TensorTrain(rank=8)`, or the text for it on the command line, such as `"tt:rank=8"`.
        scale: Scale s of the update: W + s dW. `"auto"`: derived from the tensor, so that one learning rate suits every
            format, rank and width; see `Adapter.balance`. It is 1 on the meta device, where no weights are. A
            number; LoRA's `Alpha(alpha)`, which is divided by the rank; or scales by group name.
        dropout: Probability of dropping a rank component of the zero core in each call during training; or
            probabilities by name for `rank`, entries of the dense `increment`, and entries of the `factors`.
        route: `activation` never forms the increment; `formed` adds it to the weight and computes the gradients of its
            two narrow matrices; `weight` adds it and computes the gradient of the full weight; `auto` picks what is
            predicted to be the fastest for each weight and number of tokens.
        train_head: Train and store the head: True for the one that timm's `pretrained_cfg["classifier"]` names, what a
            transformers model for a task has beside its base model, or the last layer of `classifier`, `head`, `heads`,
            `fc` or `score`; or the name of a module, or several names.
        train: What else to train and store as the head is: modules and parameters whose names, or consecutive parts of
            them, match a pattern or one of several. `"norm1"` and `"norm*"` match in every block, `"bias"` matches
            every bias, `"blocks.11.norm1"` one module. It is not frozen, saved with the factors, and brought back by
            `remove`.
        seed: Seed of the random cores, from 0 to 2**63 - 1; default: drawn from torch's global generator.
        optimize: How contraction orders are planned: the name of an opt_einsum method, or an optimiser object.
        check: Raise an error for a parameter that the model does not use. Checked in one forward pass in evaluation
            mode if an example input is known (timm's `pretrained_cfg`, transformers' `dummy_inputs`), else in the
            first forward pass.
        recompute: Recompute the outputs of torch's normalisations and activation functions in the backward pass
            instead of keeping them for the adapted layers: less memory, slightly slower.
        init: Initial factors. None: random. `"hosvd"`: the leading directions of the stacked base weights, from the
            format's decomposition; frozen cores get them too. Both start with a zero increment. To start from a given
            increment: another adapter, an `AdapterState`, the path of a file, or increments by parameter name, as from
            `Adapter.delta`.
        subtract_start: Subtract a frozen copy of the initial increment, so that any start leaves the output
            unchanged. With a `scale` that is a number, a copy drawn from `seed` is not stored in
            files; others are.
        tasks: Names of several tasks, or `Tasks` with the cores that they share: then a bank is returned, which has the
            factors and the head of every task.

    Returns:
        The adapter, or the bank, also available as `model.tensorfact`.

    Raises:
        PlanError: The plan does not fit the model.
        RankError: The tensor does not admit this rank.
        AdaptError: The model is already adapted, an argument is invalid, or a parameter cannot be adapted.
        UnusedError: The model does not use a parameter.
        DataError: An increment in `init` is missing or has another shape than its parameter.

    Source: Jie & Deng, FacT, AAAI 2023.

    Examples:
        >>> from tensorfact import adapt
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> adapt(model).num_parameters
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
    flag(subtract_start, "adapt: subtract_start", AdaptError)
    with one_at_a_time(model):
        refuse_adapted(model)
        plan = plan_for(model) if plan is None else plan
        head = head_parameters(model, train_head)
        stated = not isinstance(train_head, bool) or bool(stated_head(model))
        beside = matching_parameters(model, train)
        parts = _parts(model, plan, format, scale, head, options, stated=stated, beside=beside)
        if tasks is not None:
            bank = _bank(parts, as_tasks(tasks), init, subtract_start=subtract_start)
            bank._links.balance(derived(scale, bank.formats))
            return _attached(bank, options)
        adapter = Adapter(*parts)
        for name, cores in starting(init, adapter).items():
            cast("Factors", adapter.factors[name]).assign(cores)
        adapter._links.balance(derived(scale, adapter.formats))
        if subtract_start:
            adapter.subtract_start()
        return _attached(adapter, options)


def _bank(parts: Parts, tasks: Tasks, init: Init, *, subtract_start: bool) -> Bank:
    """Return a bank with fresh factors, not yet attached to its model."""
    if init is not None or subtract_start:
        raise AdaptError(
            "adapt: tasks",
            expected="factors that start at random, with an increment of zero",
            got=f"init={quoted(init)}, subtract_start={subtract_start}",
            fix="leave out init and subtract_start",
        )
    tasks.require_cores(parts.resolved, parts.formats)
    return Bank(*parts, tasks)


def load_adapter(
    model: nn.Module,
    path: AdapterSource,
    *,
    route: Route = "auto",
    check_base: bool = True,
    optimize: Optimize = "auto",
    check: bool = True,
    recompute: bool = False,
    replace: bool = False,
) -> Adapter:
    """Load an adapter and its trained head from a file, and attach them to a model.

    Args:
        model: The base model that the adapter was trained on, with a head of the same size.
        path: A file written by `Adapter.save`; a folder written by `Adapter.save_pretrained`; `OWNER/NAME`, a
            repository on the Hub with such a folder; an `AdapterState`; or an adapter on another model.
        route: As in `adapt`.
        check_base: Raise an error if the base weights are not those that the adapter was trained on.
        optimize: As in `adapt`.
        check: As in `adapt`.
        recompute: As in `adapt`.
        replace: Whether an adapter or a bank that the model has is removed. If the file cannot be loaded, it stays.

    Returns:
        The adapter.

    Raises:
        CheckpointError: The file is missing, damaged, or does not fit the model's sizes.
        FingerprintError: The file was made for another base model.
        PlanError: The file's plan does not fit the model.
        AdaptError: The model is already adapted.

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
    options = AdaptOptions(route=route, optimize=optimize, check=check, recompute=recompute, function="load_adapter")
    flag(check_base, "load_adapter: check_base", AdaptError)
    flag(replace, "load_adapter: replace", AdaptError)
    with one_at_a_time(model):
        present = getattr(model, ATTRIBUTE, None) if replace else None
        with present.away() if isinstance(present, Attached) else contextlib.nullcontext():
            refuse_adapted(model)
            return _loaded(model, state_of(path, model, check_base=check_base), options)


def _loaded(model: nn.Module, state: AdapterState, options: AdaptOptions) -> Adapter:
    """Return an adapter with the values of a state, attached to its model."""
    description, head = state.description, state.description.head_of(model)
    parameters = base_parameters(model)
    options = dataclasses.replace(options, dropout=Dropout.of(description.dropout), seed=description.seed)
    trained = tuple(name for name in head if name in parameters)
    parts = _parts(model, description.plan, description.formats, description.scales, trained, options)
    adapter = Adapter(*parts)
    if description.subtracts_start:
        adapter.subtract_start()
    if any(core.is_meta for core in adapter.named_cores().values()):
        raise AdaptError(
            "load_adapter: the model is on the meta device and cannot hold the factors",
            fix="model.to_empty(device='cpu'), then model.load_state_dict(...), before load_adapter",
        )
    with torch.no_grad():
        for prefix, factors in ((FACTORS, adapter.factors), (START, adapter.starts)):
            for name, core in named(factors).items():
                core.copy_(state.tensors[prefix + name])
    _attached(adapter, options)
    try:
        with torch.no_grad():
            for name, tensor in head.items():
                tensor.copy_(state.tensors[HEAD + name])
    except BaseException:
        adapter.remove()
        raise
    return adapter


class Parts(NamedTuple):
    """The arguments of an adapter or a bank."""

    model: nn.Module
    plan: TensorizationPlan
    resolved: ResolvedPlan
    formats: dict[str, Format]
    scales: dict[str, float]
    head: tuple[str, ...]
    options: AdaptOptions


def _parts(
    model: nn.Module,
    plan: TensorizationPlan,
    format: FormatLike | Mapping[str, FormatLike],
    scale: Scale | Mapping[str, Scale],
    head: tuple[str, ...],
    options: AdaptOptions,
    *,
    stated: bool = True,
    beside: tuple[str, ...] = (),
) -> Parts:
    """Return what an adapter with fresh factors is made of, checked against its model.

    A head that is not `stated`, but found by its name, is what the plan does not cover of it. What else trains
    `beside` the factors is part of the head from here on.
    """
    resolved, formats, scales = fitted(model, plan, format, scale)
    parameters = base_parameters(model)
    if not stated:
        head = tuple(name for name in head if name not in resolved.parameters)
    head = tuple(each_once({name: parameters[name] for name in (*head, *beside)}))
    trained = {id(parameters[name]) for name in head}
    if both := [name for name in resolved.parameters if id(parameters[name]) in trained]:
        raise AdaptError(
            f"adapt: {both[0]!r} is in both the plan and what trains beside it",
            fix="pass train_head=False or narrower patterns for train, or leave it out of the plan",
        )
    return Parts(model, plan, resolved, formats, scales, head, options)


class Fitted(NamedTuple):
    """A plan, formats and scales, once they are known to fit a model."""

    resolved: ResolvedPlan
    formats: dict[str, Format]
    scales: dict[str, float]


def fitted(
    model: nn.Module,
    plan: TensorizationPlan,
    format: FormatLike | Mapping[str, FormatLike],
    scale: Scale | Mapping[str, Scale],
) -> Fitted:
    """Return what a plan, formats and scales are on a model; arguments and errors are those of `adapt`."""
    if not isinstance(plan, TensorizationPlan):
        raise AdaptError("adapt: plan", expected="a TensorizationPlan", got=quoted(plan), fix="plan=plan_for(model)")
    resolved = plan.resolve(model)
    formats = resolved.formats(format)
    given = per_tensor(scale, list(formats), "scale")
    scales = {tensor.name: scale_of(given[tensor.name], formats[tensor.name], tensor) for tensor in resolved.tensors}
    refuse_shared_memory(model, resolved.parameters)
    return Fitted(resolved, formats, scales)


def _attached(adapter: AnyAttached, options: AdaptOptions) -> AnyAttached:
    adapter.attach()
    if options.check:
        try:
            adapter.watch.start()
        except BaseException:
            adapter.remove()
            raise
    return adapter

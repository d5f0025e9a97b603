"""Adapt a model: the only module that changes one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .checkpoint import FACTORS, HEAD, AdapterFile, fingerprint
from .errors import AdaptError, CheckpointError, FingerprintError, nearest
from .explain import Explanation, explain
from .factors import NOMINAL_TOKENS, Factors, Increment
from .formats import Format
from .groups import ResolvedPlan, per_tensor
from .layers import SLOTS, Slot, Switch, activation_is_cheaper, attach, detach, takes_activation
from .plan import TensorizationPlan

Route = Literal["auto", "activation", "weight"]
ATTRIBUTE = "tensorfact"
"""The name under which the adapter is registered on the model's root."""


class Adapter(nn.Module):
    """The factors of all groups, linked to one model. Made by `adapt` and `load_adapter`.

    It is registered on the model's root as `model.tensorfact`, so the factors follow `.to()`, `deepcopy` and
    `state_dict`, each once. Called as a module it returns its input, so that a `Sequential` root goes on working.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: TensorizationPlan,
        resolved: ResolvedPlan,
        formats: Mapping[str, Format],
        scales: Mapping[str, float],
        *,
        dropout: float,
        route: Route,
        head: tuple[str, ...],
        generator: torch.Generator | None,
        optimize: Any,
    ) -> None:
        super().__init__()
        self.__dict__["_model"] = model  # not registered: the model holds the adapter
        self.plan, self.resolved, self.head = plan, resolved, head
        self.formats, self.scales, self.dropout = dict(formats), dict(scales), dropout
        self._switch, self._attached = Switch(), False
        self._originals: dict[str, Tensor] = {}
        self._flags: dict[str, bool] = {}
        parameters = _parameters(model)
        self.factors = nn.ModuleDict()
        self._slots: dict[str, Slot] = {}
        for tensor in resolved.tensors:
            network = formats[tensor.name].network(tensor.modes)
            first = parameters[tensor.views[0].parameter]
            dtypes = [parameters[view.parameter].dtype for view in tensor.views]
            dtype = max((torch.promote_types(d, torch.float32) for d in dtypes), key=lambda d: d.itemsize)
            factors = Factors(network, tensor.modes, dtype=dtype, device=first.device, generator=generator)
            self.factors[tensor.name] = factors
            for view in tensor.views:
                increment = Increment(factors, tensor.modes, view, optimize=optimize, dropout=dropout)
                self._slots[view.parameter] = Slot(increment, scales[tensor.name], self._switch)
        self._owners = _owners(model, self._slots)
        self._activation = {name for name in self._slots if self._takes_activation(name, route)}

    @property
    def num_parameters(self) -> int:
        """How many numbers the factors hold, the head apart."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def merged(self) -> bool:
        """Whether the base weights hold the increments."""
        return bool(self._originals)

    def delta(self, parameter_name: str) -> Tensor:
        """Return the dense increment of one parameter: effective weight minus base weight, scale included.

        Args:
            parameter_name: The parameter's name in the model.

        Returns:
            A tensor of the parameter's shape, in at least fp32.

        Raises:
            AdaptError: The adapter does not change this parameter.

        Example:
            >>> import tensorfact as tf
            >>> model = tf.nano()
            >>> adapter = tf.adapt(model, tf.plan_for(model), tf.TensorTrain(rank=4))
            >>> adapter.delta("blocks.0.attn.qkv.weight").shape
            torch.Size([288, 96])
        """
        if parameter_name not in self._slots:
            raise AdaptError(
                f"the adapter does not change {parameter_name!r}",
                expected=f"one of {len(self._slots)} parameters",
                got=f"{parameter_name!r}{nearest(parameter_name, self._slots)}",
                fix="see adapter.resolved.parameters",
            )
        slot = self._slots[parameter_name]
        return slot.increment.dense() * slot.scale

    def merge(self) -> None:
        """Write the effective weights into the base parameters; the originals are kept for `unmerge`.

        Raises:
            AdaptError: It is merged already, or removed.
        """
        self._require(merged=False)
        parameters = _parameters(self._model)
        try:
            with torch.no_grad():
                for name, slot in self._slots.items():
                    parameter = parameters[name]
                    self._originals[name] = parameter.detach().clone()
                    parameter.copy_(slot.effective(parameter))
        except BaseException:
            self._restore()
            raise
        self._switch.on = False

    def unmerge(self) -> None:
        """Write the original base parameters back, bit for bit.

        Raises:
            AdaptError: It is not merged, or removed.
        """
        self._require(merged=True)
        self._restore()
        self._switch.on = True

    def remove(self) -> None:
        """Take the adapter off the model. Merged weights stay merged; else the model is the base model again.

        The head keeps its trained values, and every parameter requires gradients as it did before.

        Raises:
            AdaptError: It is removed already.
        """
        self._require()
        self._originals.clear()
        self._detach()

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Run the base model while the context lasts, also if merged. The head stays as trained.

        Raises:
            AdaptError: It is removed.

        Example:
            >>> import torch, tensorfact as tf
            >>> model, x = tf.nano(), torch.zeros(1, 1, 28, 28)
            >>> adapter = tf.adapt(model, tf.plan_for(model), tf.TensorTrain(rank=4))
            >>> with adapter.disabled():
            ...     base = model(x)
            >>> torch.equal(model(x), base)
            True
        """
        self._require()
        on, merged = self._switch.on, self.merged
        if merged:
            self.unmerge()
        self._switch.on = False
        try:
            yield
        finally:
            self._switch.on = on
            if merged:
                self.merge()

    def explain(self, tokens: int = NOMINAL_TOKENS) -> Explanation:
        """Say what the contraction planner chose.

        Args:
            tokens: Tokens of one forward pass (batch times positions); rounded up to a power of two, as in use.

        Returns:
            Route, order, FLOPs against the better naive order, and the largest intermediate, for every kind of
            parameter; printed, a table.

        Raises:
            AdaptError: `tokens` is no positive int.

        Example:
            >>> import tensorfact as tf
            >>> model = tf.nano()
            >>> adapter = tf.adapt(model, tf.plan_for(model), tf.TensorTrain(rank=4))
            >>> adapter.explain(tokens=100).choices[0].route
            'activation'
        """
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise AdaptError("explain: tokens", expected="an int of at least 1", got=repr(tokens))
        return explain(((slot.increment, name in self._activation) for name, slot in self._slots.items()), tokens)

    def save(self, path: str | Path) -> None:
        """Write the factors and the trained head to one safetensors file, atomically.

        Args:
            path: The file; its folder must exist.

        Raises:
            CheckpointError: It cannot be written; a file that was there is unchanged.
            FormatError: A format has no registered name.
        """
        self._require()
        tensors = {f"{FACTORS}{name}": core for name, core in self._cores().items()}
        tensors |= {f"{HEAD}{name}": _parameters(self._model)[name] for name in self.head}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        file = AdapterFile(self.plan, self.formats, self.scales, self.dropout, self.fingerprint, shapes)
        file.write(path, tensors)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the base weights that the adapter belongs to."""
        return fingerprint({**_parameters(self._model), **self._originals}, tuple(self._slots))

    def forward(self, input: Any) -> Any:
        """Return the input: what the adapter adds, the adapted layers add."""
        return input

    def extra_repr(self) -> str:
        """Return the formats, for `print(model)`."""
        shown = ", ".join(dict.fromkeys(map(str, self.formats.values())))
        return f"{shown}, {self.num_parameters:,} parameters on {len(self._slots)} weights"

    def _cores(self) -> dict[str, Tensor]:
        return {f"{t}.{c}": core for t, factors in self.factors.items() for c, core in factors.cores.items()}

    def _takes_activation(self, name: str, route: Route) -> bool:
        owners, increment = self._owners[name], self._slots[name].increment
        able = all(takes_activation(module, attribute) for module, attribute in owners)
        if route == "activation" and not able:
            module, attribute = owners[0]
            raise AdaptError(
                f"route='activation' on {name!r}",
                expected="the weight of a linear layer",
                got=f"{attribute!r} of {type(module).__name__}",
                fix="use route='auto'",
            )
        return able and (route == "activation" or (route == "auto" and activation_is_cheaper(increment)))

    def _attach(self) -> None:
        model = self._model
        self._flags = {name: p.requires_grad for name, p in _parameters(model).items()}
        modules: dict[nn.Module, dict[str, str]] = {}
        for name, owners in self._owners.items():
            for module, attribute in owners:
                modules.setdefault(module, {})[attribute] = name
        self._attached = True
        try:
            for name, parameter in _parameters(model).items():
                parameter.requires_grad_(name in self.head)
            for module, names in modules.items():
                slots = {attribute: self._slots[name] for attribute, name in names.items()}
                attach(module, slots, activation=names.get("weight") in self._activation)
            model.add_module(ATTRIBUTE, self)
            self.train(model.training)
        except BaseException:
            self._detach()
            raise

    def _detach(self) -> None:
        for owners in self._owners.values():
            for module, _ in owners:
                detach(module)
        self._model._modules.pop(ATTRIBUTE, None)
        for name, parameter in _parameters(self._model).items():
            parameter.requires_grad_(self._flags.get(name, parameter.requires_grad))
        self._attached = False

    def _restore(self) -> None:
        parameters = _parameters(self._model)
        with torch.no_grad():
            for name, original in self._originals.items():
                parameters[name].copy_(original)
        self._originals.clear()

    def _require(self, merged: bool | None = None) -> None:
        if not self._attached:
            raise AdaptError("the adapter was removed from its model", fix="adapt the model again, or load a saved file")
        if merged is not None and merged != self.merged:
            state = "merged already" if self.merged else "not merged"
            raise AdaptError(f"the adapter is {state}", fix=f"check adapter.merged before {'un' * merged}merge()")


def adapt(
    model: nn.Module,
    plan: TensorizationPlan,
    format: Format | Mapping[str, Format],
    *,
    scale: float | Mapping[str, float] = 1.0,
    dropout: float = 0.0,
    route: Route = "auto",
    train_head: bool | str = True,
    seed: int | None = None,
    optimize: Any = "auto",
) -> Adapter:
    """Give a model trainable factors of its weights' increment, in place; the base freezes, the head trains.

    The output does not change until training does. An error leaves the model as it was.

    Args:
        model: The model.
        plan: Which weights fold into which tensors.
        format: How each tensor is factored: one format, or one for each group's name.
        scale: What multiplies the increment: one number, or one for each group's name.
        dropout: Probability with which, in training, a rank component of the zero core is dropped for one call.
        route: `activation` never forms the increment, `weight` forms it; `auto` picks the cheaper for each weight.
        train_head: Train and store the head that `pretrained_cfg["classifier"]` names, or the module of this name.
        seed: Seed of the random cores; by default they come from torch's own state.
        optimize: What plans the order of contraction: anything opt_einsum accepts.

    Returns:
        The adapter, also found as `model.tensorfact`.

    Raises:
        PlanError: The plan does not fit the model.
        RankError: A rank that a tensor does not allow.
        AdaptError: The model is adapted already, a number is out of range, or a parameter cannot be adapted.

    Source: Jie & Deng, FacT, AAAI 2023.

    Example:
        >>> import tensorfact as tf
        >>> model = tf.nano()
        >>> adapter = tf.adapt(model, tf.plan_for(model), tf.TensorTrain(rank=8), seed=0)
        >>> adapter.num_parameters
        6144
        >>> sorted(name for name, p in model.named_parameters() if p.requires_grad)[:2]
        ['head.bias', 'head.weight']
    """
    return _adapt(
        model, plan, format, scale, dropout, route, _head(model, train_head), _generator(seed), optimize
    )


def load_adapter(
    model: nn.Module, path: str | Path, *, route: Route = "auto", check_base: bool = True, optimize: Any = "auto"
) -> Adapter:
    """Adapt a model with the factors, and the head, of a file.

    Args:
        model: The base model the file was trained on, with a head of the same size.
        path: A file that `Adapter.save` wrote.
        route: As in `adapt`.
        check_base: Refuse a model whose base weights are not those the adapter was trained on.
        optimize: As in `adapt`.

    Returns:
        The adapter.

    Raises:
        CheckpointError: The file is missing, damaged, or does not fit the model's sizes.
        FingerprintError: The file was made for another base model.
        PlanError: The file's plan does not fit the model.
        AdaptError: The model is adapted already.

    Example:
        >>> import tempfile, pathlib, tensorfact as tf
        >>> model = tf.nano()
        >>> adapter = tf.adapt(model, tf.plan_for(model), tf.TensorTrain(rank=4))
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "adapter.safetensors"
        >>> adapter.save(path)
        >>> tf.load_adapter(tf.nano(), path).num_parameters
        2304
    """
    _refuse_adapted(model)
    file = AdapterFile.read(path)
    resolved, parameters = file.plan.resolve(model), _parameters(model)
    found = fingerprint(parameters, resolved.parameters)
    if check_base and found != file.fingerprint:
        raise FingerprintError(
            f"{path} was made for another base model",
            expected=f"base fingerprint {file.fingerprint}",
            got=found,
            cause="other pretrained weights, or weights that were merged or trained since",
            fix="load the base weights it was trained on, or pass check_base=False if they are equal in all that matters",
        )
    head = tuple(name.removeprefix(HEAD) for name in file.shapes if name.startswith(HEAD))
    _check_shapes(path, file, resolved, parameters, head)
    tensors = AdapterFile.tensors(path)
    adapter = _adapt(
        model, file.plan, file.formats, file.scales, file.dropout, route, head, torch.Generator(), optimize
    )
    with torch.no_grad():
        for name, core in adapter._cores().items():
            core.copy_(tensors[FACTORS + name])
        for name in head:
            parameters[name].copy_(tensors[HEAD + name])
    return adapter


def _adapt(
    model: nn.Module,
    plan: TensorizationPlan,
    format: Format | Mapping[str, Format],
    scale: float | Mapping[str, float],
    dropout: float,
    route: Route,
    head: tuple[str, ...],
    generator: torch.Generator | None,
    optimize: Any,
) -> Adapter:
    _refuse_adapted(model)
    if not isinstance(plan, TensorizationPlan):
        raise AdaptError("adapt: plan", expected="a TensorizationPlan", got=repr(plan), fix="plan_for(model)")
    resolved = plan.resolve(model)
    formats = resolved.formats(format)
    scales = per_tensor(scale, resolved.tensors, "scale")
    for name, value in {**{f"scale of {n!r}": s for n, s in scales.items()}, "dropout": dropout}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise AdaptError(f"adapt: {name}", expected="a finite number", got=repr(value), fix="scale=1.0, dropout=0.0")
    if not 0 <= dropout < 1:
        raise AdaptError("adapt: dropout", expected="0 <= dropout < 1", got=repr(dropout), fix="dropout=0.1")
    if route not in get_args(Route):
        raise AdaptError("adapt: route", expected=f"one of {get_args(Route)}", got=repr(route), fix="route='auto'")
    if both := sorted(set(head) & set(resolved.parameters)):
        raise AdaptError(
            f"adapt: {both[0]!r} is in the plan and in the head that trains",
            fix="leave the head out of the plan, or pass train_head=False",
        )
    adapter = Adapter(
        model,
        plan,
        resolved,
        formats,
        {name: float(value) for name, value in scales.items()},
        dropout=float(dropout),
        route=route,
        head=head,
        generator=generator,
        optimize=optimize,
    )
    adapter._attach()
    return adapter


def _generator(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed)


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters but the adapter's, by every name they have."""
    named = model.named_parameters(remove_duplicate=False)
    return {name: parameter for name, parameter in named if not name.startswith(f"{ATTRIBUTE}.")}


def _refuse_adapted(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise AdaptError("adapt: model", expected="a torch.nn.Module", got=type(model).__name__)
    adapted = [name or "the model" for name, module in model.named_modules() if SLOTS in module.__dict__]
    if adapted or hasattr(model, ATTRIBUTE):
        raise AdaptError(
            f"the model is adapted already ({(adapted or [ATTRIBUTE])[0]})",
            fix="call model.tensorfact.remove() first; merge() before that keeps what it learned",
        )


def _owners(model: nn.Module, names: Mapping[str, Slot]) -> dict[str, list[tuple[nn.Module, str]]]:
    """Find every module that holds one of the parameters, tied ones included, and refuse what cannot be adapted."""
    parameters = _parameters(model)
    by_id = {id(parameters[name]): name for name in names}
    owners: dict[str, list[tuple[nn.Module, str]]] = {name: [] for name in names}
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is None or id(parameter) not in by_id:
                continue
            name = by_id[id(parameter)]
            owners[name].append((module, attribute))
            if isinstance(module, (nn.RNNBase, torch.jit.ScriptModule)) or not parameter.is_floating_point():
                raise AdaptError(
                    f"{name!r} ({parameter.dtype}) of {type(module).__name__} cannot be adapted",
                    cause="recurrent and scripted modules keep copies of their weights; integer weights have no increment",
                    fix="leave it out of the plan",
                )
    return owners


def _head(model: nn.Module, train_head: bool | str) -> tuple[str, ...]:
    """Return the names of the head's parameters."""
    if not train_head or not isinstance(model, nn.Module):
        return ()
    config = getattr(model, "pretrained_cfg", None) or {}
    named = train_head if isinstance(train_head, str) else config.get("classifier") or ()
    prefixes = (named,) if isinstance(named, str) else tuple(named)
    found = tuple(n for n in _parameters(model) if any(n == p or n.startswith(f"{p}.") for p in prefixes))
    if isinstance(train_head, str) and not found:
        names = [name for name, _ in model.named_modules()]
        raise AdaptError(
            f"adapt: train_head={train_head!r} names no module with parameters",
            got=f"{train_head!r}{nearest(train_head, names)}",
            fix="pass the head's module name, or train_head=False",
        )
    return found


def _check_shapes(
    path: str | Path,
    file: AdapterFile,
    resolved: ResolvedPlan,
    parameters: Mapping[str, Tensor],
    head: Sequence[str],
) -> None:
    """Hold every stored shape against the model before anything is allocated."""
    expected = {HEAD + name: tuple(parameters[name].shape) for name in head if name in parameters}
    for tensor in resolved.tensors:
        if tensor.name not in file.formats or tensor.name not in file.scales:
            raise CheckpointError(f"{path} has no factors for tensor {tensor.name!r}", fix="use the model it was saved from")
        for core, shape in file.formats[tensor.name].network(tensor.modes).shapes().items():
            expected[f"{FACTORS}{tensor.name}.{core}"] = shape
    for name in sorted(expected.keys() | file.shapes.keys()):
        if expected.get(name) != file.shapes.get(name):
            raise CheckpointError(
                f"{path} does not fit the model at {name!r}",
                expected=f"shape {expected.get(name, 'none')}",
                got=f"{file.shapes.get(name, 'none')}",
                cause="a head with another number of classes, or another model",
                fix="create the model with the num_classes the adapter was trained with",
            )

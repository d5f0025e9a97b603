"""The adapter: the factors of all groups, linked to one model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..anatomy import ATTRIBUTE, base_parameters
from ..checkpoint import FACTORS, HEAD, AdapterFile, fingerprint
from ..errors import AdaptError, nearest
from ..explain import Explanation, Planned, explain
from ..factors import Factors
from ..formats import Format
from ..groups import ResolvedPlan
from ..increments import NOMINAL_TOKENS, increments, note_sources
from ..layers import Slot, Switch, attach, detach, is_attached, takes_activation
from ..plan import TensorizationPlan
from .liveness import Liveness, Watch, listed, measure, required_example
from .owners import head_buffers, owners_of

Route = Literal["auto", "activation", "weight"]


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
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.__dict__["_model"] = model  # not as a child: the model holds the adapter
        self.plan, self.resolved, self.head = plan, resolved, head
        self.formats, self.scales, self.dropout = dict(formats), dict(scales), dropout
        self._switch, self._attached, self._disabled = Switch(), False, False
        self._originals: dict[str, Tensor] = {}
        self._flags: dict[str, bool] = {}
        parameters = base_parameters(model)
        self.factors = nn.ModuleDict()
        self._slots: dict[str, Slot] = {}
        for tensor in resolved.tensors:
            network = tensor.network(formats[tensor.name])
            first = parameters[tensor.views[0].parameter]
            dtypes = [parameters[view.parameter].dtype for view in tensor.views]
            dtype = max((torch.promote_types(d, torch.float32) for d in dtypes), key=lambda d: d.itemsize)
            factors = Factors(
                network, tensor.modes, tensor.extents, dtype=dtype, device=first.device, generator=generator
            )
            self.factors[tensor.name] = factors
            for name, increment in increments(tensor, factors, optimize=optimize, dropout=dropout).items():
                self._slots[name] = Slot(increment, scales[tensor.name], self._switch)
        self._owners = owners_of(model, self._slots)
        self.watch = Watch(model, self._slots, resolved)
        self._activation = {name for name in self._slots if self._takes_activation(name, route)}
        self._recompute = recompute
        self._hooks: list[RemovableHandle] = []

    @property
    def model(self) -> nn.Module:
        """The model that the adapter is linked to."""
        model: nn.Module = self.__dict__["_model"]
        return model

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

        Examples:
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
        self._require(merged=False, changing=True)
        parameters = base_parameters(self.model)
        try:
            with torch.no_grad():
                for name, slot in self._slots.items():
                    parameter = parameters[name]
                    self._originals[name] = parameter.detach().clone()
                    slot.increment.add_into(parameter, slot.scale)
        except BaseException:
            self._restore()
            raise
        self._switch.on = False

    def unmerge(self) -> None:
        """Write the original base parameters back, bit for bit.

        Raises:
            AdaptError: It is not merged, or removed.
        """
        self._require(merged=True, changing=True)
        self._restore()
        self._switch.on = True

    def remove(self) -> None:
        """Take the adapter off the model. Merged weights stay merged; else the model is the base model again.

        The head keeps its trained values, and every parameter requires gradients as it did before.

        Raises:
            AdaptError: It is removed already.
        """
        self._require(changing=True)
        for owners in self._owners.values():
            for module, attribute in owners:
                if not is_attached(module):
                    raise AdaptError(
                        f"{type(module).__name__}, which owns {attribute!r}, was changed after it was adapted",
                        cause="a parametrization was registered on it",
                        fix="undo that, for instance by torch.nn.utils.parametrize.remove_parametrizations",
                    )
        self._originals.clear()
        self._detach()

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Run the base model while the context lasts, also if merged. The head stays as trained.

        A merged adapter is merged anew at the end, with its factors as they are then.

        Raises:
            AdaptError: It is removed.

        Examples:
            >>> import torch, tensorfact as tf
            >>> model, x = tf.nano(), torch.zeros(1, 1, 28, 28)
            >>> adapter = tf.adapt(model, tf.plan_for(model), tf.TensorTrain(rank=4))
            >>> with adapter.disabled():
            ...     base = model(x)
            >>> torch.equal(model(x), base)
            True
        """
        self._require()
        if self._disabled:  # within another disabled() of the same adapter
            yield
            return
        merged = self.merged
        if merged:
            self.unmerge()
        self._switch.on, self._disabled = False, True
        try:
            yield
        finally:
            self._switch.on, self._disabled = True, False
            if merged:
                self.merge()

    def check(self, example_input: object = None) -> Liveness:
        """Perturb every adapted parameter by itself: does the output move, and is adapted the same as merged?

        Runs the model twice for each parameter, in evaluation mode. The model is left as it was, bit for bit.

        Args:
            example_input: A tensor, a tuple of arguments, or a mapping of keywords; by default, an image of the size
                that timm's `pretrained_cfg` or transformers' `config` names, or transformers' `dummy_inputs`.

        Returns:
            How far every parameter moves the output, and how far adapted and merged model lie apart; printed, a table.

        Raises:
            AdaptError: A parameter is dead, adapted differs from merged, or there is no example input.

        Examples:
            >>> import tensorfact as tf
            >>> model = tf.nano()
            >>> adapter = tf.adapt(model, tf.plan_for(model, blocks="attention"), tf.TensorTrain(rank=4))
            >>> len(adapter.check().effects)
            12
        """
        self._require(merged=False, changing=True)
        found = measure(self.model, self._slots, required_example(self.model, example_input))
        if found.dead:
            raise AdaptError(
                f"the output does not depend on {listed(found.dead)}",
                cause="the parameter is not used in this forward pass, or a frozen scale of zero comes after it",
                fix="leave it out of the plan, or pass an example_input that uses it",
            )
        if found.apart:
            raise AdaptError(
                f"adapted and merged model differ in {listed(found.apart)}",
                expected=f"a difference up to {found.tolerance:.1e}",
                got=f"{max(effect.difference for effect in found.effects):.1e}",
                cause="the model keeps a copy of the weight, or is not deterministic in evaluation mode",
                fix="leave it out of the plan",
            )
        return found

    def explain(self, tokens: int = NOMINAL_TOKENS, *, measure: bool = False) -> Explanation:
        """Say what the contraction planner chose, what that costs, and on request how long it takes.

        Args:
            tokens: Tokens of one forward pass (batch times positions); rounded up to a power of two, as in use.
            measure: Time a training step of one layer of each kind, beside the base layer's.

        Returns:
            For every kind of parameter its route, its order, FLOPs against the better naive order, and the cost and
            predicted time of a training step; printed, a table.

        Raises:
            AdaptError: `tokens` is no positive int.

        Examples:
            >>> import tensorfact as tf
            >>> model = tf.nano()
            >>> adapter = tf.adapt(model, tf.plan_for(model), tf.TensorTrain(rank=4))
            >>> adapter.explain(tokens=100).choices[0].route
            'activation'
        """
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise AdaptError("explain: tokens", expected="an int of at least 1", got=repr(tokens))
        parameters = base_parameters(self.model)
        if measure and any(parameters[name].is_meta for name in self._slots):
            raise AdaptError(
                "explain: measure=True on a model without numbers", fix="make it on another device than 'meta'"
            )
        planned = (
            Planned(slot.increment, name in self._activation, slot.scale, parameters[name])
            for name, slot in self._slots.items()
        )
        return explain(planned, tokens, measure=measure)

    def save(self, path: str | Path) -> None:
        """Write the factors and the trained head to one safetensors file, atomically.

        Args:
            path: The file; its folder must exist.

        Raises:
            AdaptError: The adapter, or the head it trained, is no longer on the model.
            CheckpointError: It cannot be written; a file that was there is unchanged.
            FormatError: A format has no registered name.
        """
        self._require()
        tensors = {f"{FACTORS}{name}": core for name, core in self.named_cores().items()}
        parameters = base_parameters(self.model)
        if missing := [name for name in self.head if name not in parameters]:
            raise AdaptError(
                f"the model's head has no {missing[0]!r} any more",
                cause="the head was replaced or taken off after adapt()",
                fix="put the head back, or adapt with train_head=False",
            )
        head = {**{name: parameters[name] for name in self.head}, **head_buffers(self.model, self.head)}
        tensors |= {f"{HEAD}{name}": tensor for name, tensor in head.items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        file = AdapterFile(self.plan, self.formats, self.scales, self.dropout, self.fingerprint, shapes)
        file.write(path, tensors)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the base weights that the adapter belongs to."""
        return fingerprint({**base_parameters(self.model), **self._originals}, tuple(self._slots))

    def forward(self, input: Any) -> Any:
        """Return the input: what the adapter adds, the adapted layers add."""
        return input

    def train(self, mode: bool = True) -> Adapter:
        """Set the mode, and form anew what is formed of the factors: they may have changed uncounted, by `.data`."""
        for slot in self._slots.values():
            slot.increment.forget()
        return super().train(mode)

    def extra_repr(self) -> str:
        """Return the formats, for `print(model)`."""
        shown = ", ".join(dict.fromkeys(map(str, self.formats.values())))
        return f"{shown}, {self.num_parameters:,} parameters on {len(self._slots)} weights"

    def named_cores(self) -> dict[str, Tensor]:
        """Return every core, named `TENSOR.CORE`."""
        return {
            f"{t}.{c}": core for t, f in self.factors.items() for c, core in cast("Factors", f).named_cores().items()
        }

    def _takes_activation(self, name: str, route: Route) -> bool:
        owners, kind = self._owners[name], self._slots[name].increment.kind
        able = all(takes_activation(module, attribute) for module, attribute in owners)
        if route == "activation" and not able:
            module, attribute = owners[0]
            raise AdaptError(
                f"route='activation' on {name!r}",
                expected="the weight of a linear layer",
                got=f"{attribute!r} of {type(module).__name__}",
                fix="use route='auto'",
            )
        return able and (route == "activation" or (route == "auto" and kind.apply_is_faster))

    def attach(self) -> None:
        """Put the adapter on its model; `adapt` does. An error leaves the model as it was."""
        model = self.model
        self._flags = {name: p.requires_grad for name, p in base_parameters(model).items()}
        modules: dict[nn.Module, dict[str, str]] = {}
        for name, owners in self._owners.items():
            for module, attribute in owners:
                modules.setdefault(module, {})[attribute] = name
        self._attached = True
        try:
            head = {id(parameter) for name, parameter in base_parameters(model).items() if name in self.head}
            for parameter in base_parameters(model).values():
                parameter.requires_grad_(id(parameter) in head)
            for module, names in modules.items():
                slots = {attribute: self._slots[name] for attribute, name in names.items()}
                attach(module, slots, activation=names.get("weight") in self._activation)
            if self._recompute:
                self._hooks = note_sources(model)
            model.add_module(ATTRIBUTE, self)
            self.train(model.training)
        except BaseException:
            self._detach()
            raise

    def _detach(self) -> None:
        for owners in self._owners.values():
            for module, _ in owners:
                detach(module)
        for hook in self._hooks:
            hook.remove()
        self.watch.stop()
        self.model._modules.pop(ATTRIBUTE, None)
        for name, parameter in base_parameters(self.model).items():
            parameter.requires_grad_(self._flags.get(name, parameter.requires_grad))
        self._attached = False

    def _restore(self) -> None:
        parameters = base_parameters(self.model)
        with torch.no_grad():
            for name, original in self._originals.items():
                parameters[name].copy_(original)
        self._originals.clear()

    def _require(self, merged: bool | None = None, *, changing: bool = False) -> None:
        if not self._attached:
            raise AdaptError(
                "the adapter was removed from its model", fix="adapt the model again, or load a saved file"
            )
        if changing and self._disabled:
            raise AdaptError("the adapter is disabled", fix="leave `with adapter.disabled()` first")
        if merged is not None and merged != self.merged:
            state = "merged already" if self.merged else "not merged"
            raise AdaptError(f"the adapter is {state}", fix=f"check adapter.merged before {'un' * merged}merge()")

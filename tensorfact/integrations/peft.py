"""tensorfact as a method of peft: `get_peft_model(model, TensorfactConfig(format="tt", rank=8))` after `register()`.

peft calls an adapter's layers one by one; here one layer, `TensorfactLayer`, stands for all, since the factors are
shared. It is registered as `model.tensorfact`, and peft's own functions switch, merge, freeze, save and delete it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NoReturn, cast

from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils.peft_types import register_peft_method
from torch import Tensor, nn

from ..adapters.factors import Factors
from ..adapters.options import AdaptOptions, Route, fresh_seed
from ..adapters.scale import Alpha
from ..adapters.several import Several
from ..common.checks import flag, quoted
from ..errors import AdaptError
from ..formats import Format
from ..formats.common import zero_core
from ..formats.rank import Rank
from ..formats.registry import as_format, format_from_dict, format_to_dict
from ..model.parameters import ATTRIBUTE, base_parameters
from ..network import Dropout
from ..plan import TensorizationPlan, plan_for

NAME = ATTRIBUTE
"""The name of the method: `peft_type` is `TENSORFACT`."""

_FACTORS = f"{ATTRIBUTE}.factors."


def register() -> None:
    """Make tensorfact a method of peft, in this process. A second call does nothing.

    Adapters of `TensorfactConfig` are then created by `get_peft_model` and loaded by `PeftModel.from_pretrained`.

    Raises:
        AdaptError: The installed peft is too old.

    Examples:
        >>> import peft
        >>> from tensorfact.integrations.peft import TensorfactConfig, register
        >>> from tensorfact.lab import nano
        >>> register()
        >>> model = peft.get_peft_model(nano(), TensorfactConfig(format="tt", rank=4, modules_to_save=["head"]))
        >>> model.print_trainable_parameters()
        trainable params: 2,890 || all params: 681,620 || trainable%: 0.4240
    """
    if _type() in PEFT_TYPE_TO_CONFIG_MAPPING:
        return
    if not hasattr(BaseTuner, "_remove_adapter_name_from_key"):
        raise AdaptError("this version of peft is too old", fix="pip install 'tensorfact[peft]'")
    if _type() is None:
        _extend(PeftType, NAME.upper())
    register_peft_method(
        name=NAME, config_cls=TensorfactConfig, model_cls=TensorfactModel, prefix=TensorfactModel.prefix
    )


def _type() -> Any:
    """Return the method's member of peft's enum of methods; None before `register`."""
    return PeftType.__members__.get(NAME.upper())


def _extend(enum: Any, name: str) -> None:
    """Add a member to an enum of strings: peft registers only what its enum lists, and has no function for that."""
    member = str.__new__(enum, name)
    member._name_ = member._value_ = name
    setattr(enum, name, member)
    enum._member_map_[name] = enum._value2member_map_[name] = member
    enum._member_names_.append(name)


@dataclasses.dataclass
class TensorfactConfig(PeftConfig):  # type: ignore[misc]  # peft has no types that can be checked
    """Configuration of an adapter of tensorfact in peft.

    Args:
        plan: The weights to adapt, and how they fold into tensors: a `TensorizationPlan`, or its JSON as text or dict;
            default: `plan_for(model)`, which the configuration then states.
        format: How each tensor is factored: a format object, its text such as `"tt"` or `"tt:rank=8"`, or its JSON.
        rank: The rank, if the format does not state it, or in place of the one it states.
        alpha: LoRA's alpha: the scale is alpha divided by the rank. It excludes `scale`.
        scale: Scale s of the update: W + s dW.
        dropout: As in `adapt`: the dropout of rank components, or probabilities by name.
        route: As in `adapt`.
        seed: Seed of the random cores; default: drawn from torch's global generator.
        init_weights: Start from the base model. False draws all cores at random, for tests.
        modules_to_save: Names of modules beside the factors that are trained and stored, such as the head.

    Raises:
        AdaptError: `register()` was not called, or an option is invalid.
        FormatError: The format is invalid.
        PlanError: The plan is invalid.
    """

    plan: TensorizationPlan | str | dict[str, Any] | None = None
    format: Format | str | dict[str, Any] = "tt:rank=8"
    rank: Rank | None = None
    alpha: float | None = None
    scale: float = 1.0
    dropout: float | dict[str, float] = 0.0
    route: Route = "auto"
    seed: int | None = None
    init_weights: bool = True
    modules_to_save: list[str] | None = None

    target_modules: ClassVar[None] = None
    """peft asks every configuration for it; the plan names the weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = _type()
        if self.peft_type is None:
            raise AdaptError(
                "TensorfactConfig: peft does not know tensorfact yet",
                fix="tensorfact.integrations.peft.register()",
            )
        saved = () if self.modules_to_save is None else self.modules_to_save
        if not isinstance(saved, (list, tuple, set)) or not all(isinstance(name, str) for name in saved):
            raise AdaptError(
                "TensorfactConfig: modules_to_save", expected="a list of names", got=quoted(saved), fix="['head']"
            )
        scale: object = self.scale
        if isinstance(scale, str):
            known = "a number, which a configuration file can hold"
            raise AdaptError("TensorfactConfig: scale", expected=known, got=quoted(scale), fix="scale=1.0")
        if self.alpha is not None and self.scale != 1.0:
            raise AdaptError("TensorfactConfig: alpha and scale exclude each other", fix="leave one of them out")
        flag(self.init_weights, "TensorfactConfig: init_weights", AdaptError)
        self.rank = tuple(self.rank) if isinstance(self.rank, list) else self.rank
        self.format = format_to_dict(_format_of(self.format, self.rank))  # what JSON holds, and no dataclass
        self.plan = None if self.plan is None else json.loads(_plan_of(self.plan).to_json())


def _format_of(format: object, rank: Rank | None) -> Format:
    if isinstance(format, Mapping):
        found = format_from_dict(format)
    else:
        if isinstance(format, str) and rank is not None and "rank=" not in format:
            format = f"{format}{',' if ':' in format else ':'}rank={rank}"
        found = as_format(cast("str", format), "TensorfactConfig: format")
    return found if rank is None else found.with_rank(rank)


def _plan_of(plan: object) -> TensorizationPlan:
    if isinstance(plan, TensorizationPlan):
        return plan
    return TensorizationPlan.from_json(plan if isinstance(plan, str) else json.dumps(plan))


class TensorfactLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]  # as above
    """The factors of all adapters of one model. It is peft's layer for all adapted layers together.

    Args:
        model: The base model, on which it is registered.
    """

    adapter_layer_names = ("factors",)
    weight = bias = None  # peft takes them from the layer that it wraps; this one wraps none

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.factors = nn.ModuleDict()
        self.several = Several(model, self)

    def forward(self, input: object) -> object:
        """Return the input unchanged, so that a `Sequential` root still works."""
        return input

    @property
    def merged_adapters(self) -> list[str]:
        """Names of the merged adapters."""
        return list(self.several.merged)

    def add(self, name: str, config: TensorfactConfig) -> None:
        """Create an adapter; it is not in use yet.

        Args:
            name: The adapter's name.
            config: Its configuration, which states the plan.
        """
        seed = fresh_seed() if config.seed is None else config.seed
        options = AdaptOptions(Dropout.of(config.dropout), config.route, seed=seed, function="TensorfactConfig")
        scale = config.scale if config.alpha is None else Alpha(config.alpha)
        plan, format = _plan_of(config.plan), _format_of(config.format, None)
        factors = self.several.add(name, plan, format, scale, options)
        if not config.init_weights:
            for each in factors.values():
                core = zero_core(each.network).name
                nn.init.normal_(each.named_cores()[core], std=each.deviations[core], generator=options.generator())
        self.factors[name] = nn.ModuleDict(factors)
        self.factors[name].train(self.training)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Use some adapters; their factors train, unless in inference mode."""
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        self._refresh()

    def enable_adapters(self, enabled: bool) -> None:
        """Use the active adapters, or none."""
        if not enabled and self.merged:
            self.several.unmerge()
        super().enable_adapters(enabled)
        self._refresh()

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter; if it is active, another one is from now on."""
        if adapter_name in self.factors:
            self.several.discard(adapter_name)
        super().delete_adapter(adapter_name)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Merge adapters; merged weights are always checked for NaN, whatever `safe_merge` is."""
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.factors]
        self.require_layers(names)
        try:
            self.several.merge(names)
        finally:
            self._refresh()

    def require_layers(self, names: Iterable[str]) -> None:
        """Raise if the model no longer holds a weight that an adapter changes.

        Args:
            names: Names of adapters.

        Raises:
            AdaptError: The layer was replaced.
        """
        present = base_parameters(self.several.model)
        for parameter in (parameter for name in names for parameter in self.several.parameters(name)):
            if parameter not in present:
                raise AdaptError(
                    f"the layer of {parameter!r} was replaced after it was adapted",
                    cause="another method of peft, such as LoRA, adapts the same layer",
                    fix="call merge_and_unload() before the other adapter is added, or unload() to go without this one",
                )

    def unmerge(self) -> None:
        """Restore the base weights, bit for bit."""
        self.several.unmerge()
        self._refresh()

    def remove(self) -> None:
        """Remove all adapters from the model; weights that are merged stay. `unload()` of peft calls it."""
        self.several.leave()

    def _refresh(self) -> None:
        used = [] if self.disable_adapters or self.merged else cast("list[str]", self.active_adapters)
        self.several.use([name for name in used if name in self.factors])

    def _freeze_non_trainable_peft_weights(self, adapter_names: object = None) -> None:
        """Freeze the cores that a format freezes; peft calls this whenever it has unfrozen an adapter."""
        for factors in self._each():
            for core in factors.network.cores:
                if not core.trained:
                    factors.named_cores()[core.name].requires_grad_(False)

    def take_base_dtype(self, name: str) -> None:
        """Cast the factors of an adapter to the dtype of the weights that they change."""
        self.factors[name].to(self._base_of(name).dtype)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: Any = None) -> None:
        """Move the factors, which peft has loaded, to the weights that they change."""
        self.factors[adapter_name].to(self._base_of(adapter_name).device if device is None else device)

    def _base_of(self, name: str) -> nn.Parameter:
        return base_parameters(self.several.model)[self.several.parameters(name)[0]]

    def _each(self) -> Iterator[Factors]:
        return (module for module in self.factors.modules() if isinstance(module, Factors))


class TensorfactModel(BaseTuner):  # type: ignore[misc]  # as above
    """peft's tuner: it puts one `TensorfactLayer` on the model, and one set of factors in it for each adapter."""

    prefix = f"{ATTRIBUTE}."
    tuner_layer_cls = TensorfactLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **options: Any) -> None:
        """Add an adapter to the model; on an error the model is left unchanged."""
        if not adapter_name or "." in adapter_name or hasattr(nn.ModuleDict(), adapter_name):
            raise AdaptError(
                f"adapter {adapter_name!r}",
                expected="a name without dots that is no attribute of torch.nn.ModuleDict",
                fix="adapter_name='default'",
            )
        options["state_dict"] = None  # peft finds layers by names in it; the plan has them
        if (layer := _layer(model)) is not None and adapter_name in layer.factors:
            raise AdaptError(f"adapter {adapter_name!r} exists already", fix="choose another name, or delete it first")
        try:
            super().inject_adapter(model, adapter_name, *args, **options)
        except BaseException:
            if (layer := _layer(model)) is not None:
                layer.delete_adapter(adapter_name)
                if not len(layer.factors):
                    layer.remove()
            raise

    def _prepare_adapter_config(self, peft_config: TensorfactConfig, model_config: object) -> TensorfactConfig:
        return peft_config

    def _prepare_model(self, peft_config: TensorfactConfig, model: nn.Module) -> None:
        if _layer(model) is None:
            TensorfactLayer(model)

    @staticmethod
    def _check_target_module_exists(peft_config: TensorfactConfig, key: str) -> bool:
        return key == ATTRIBUTE

    def _create_and_replace(
        self,
        peft_config: TensorfactConfig,
        adapter_name: str,
        target: TensorfactLayer,
        *_: object,
        **__: object,
    ) -> None:
        if peft_config.plan is None:  # it is stored, as peft stores the names of modules that it found
            peft_config.plan = json.loads(plan_for(target.several.model).to_json())
        target.add(adapter_name, peft_config)
        _check_saved(target, peft_config.modules_to_save or ())

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge adapters, unless another method has replaced an adapted layer."""
        if (layer := _layer(self.model)) is not None:
            names = cast("list[str]", adapter_names or layer.active_adapters)
            layer.require_layers(name for name in names if name in layer.factors)
        super().merge_adapter(adapter_names, safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if (layer := _layer(self.model)) is not None:
            if merge:
                layer.merge(safe_merge, adapter_names)
            layer.remove()
        found = super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)
        return cast("nn.Module", found)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if not autocast_adapter_dtype and (layer := _layer(self.model)) is not None:
            layer.take_base_dtype(adapter_name)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key.replace(f"{_FACTORS}{adapter_name}.", _FACTORS, 1)

    @contextmanager
    def _enable_peft_forward_hooks(self, *_: object, **options: object) -> Iterator[None]:
        if options.get("adapter_names") is not None:
            _refuse("a batch of samples for several adapters (adapter_names)", "call the model once for each adapter")
        yield

    def add_weighted_adapter(self, *_: Tensor, **__: object) -> NoReturn:
        """Refuse; tensorfact combines adapters outside of peft."""
        _refuse("add_weighted_adapter", "model.base_model.set_adapter([...]) adds adapters, tensorfact.combine states")


def _check_saved(layer: TensorfactLayer, saved: Sequence[str]) -> None:
    """Raise if peft would train a copy of a module, and with it a copy of the factors that adapt it."""
    whole = [name for name, _ in layer.several.model.named_modules() if name.endswith(tuple(saved))]
    for adapter in layer.factors:
        for parameter in layer.several.parameters(adapter):
            if found := [module for module in whole if parameter.startswith(f"{module}.")]:
                raise AdaptError(
                    f"TensorfactConfig: modules_to_save trains {found[0]!r} whole, but the plan of adapter {adapter!r}"
                    f" covers {parameter!r}",
                    fix="leave it out of the plan, or out of modules_to_save",
                )


def _layer(model: nn.Module) -> TensorfactLayer | None:
    found = model._modules.get(ATTRIBUTE)
    return found if isinstance(found, TensorfactLayer) else None


def _refuse(what: str, fix: str) -> NoReturn:
    raise AdaptError(f"tensorfact does not support {what} in peft", fix=fix)


__all__: Sequence[str] = ["TensorfactConfig", "TensorfactLayer", "TensorfactModel", "register"]

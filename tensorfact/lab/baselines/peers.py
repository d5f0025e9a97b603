"""Methods of peft as baselines: LoRA, DoRA, VeRA, LoKr, LoHa and OFT, by peft's own implementations."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ...common.aliases import Options
from ...common.checks import AnyPath, ErrorClass, finite_number, flag, one_of, probability, whole_number
from ...errors import AdaptError, nearest
from ...model.example import known_example, observing, outline, runs
from ...model.head import head_parameters
from ...model.parameters import BASELINE, base_parameters, layer_of_peft, owner_of, refuse_adapted
from ...plan import plan_for
from ...storage.files import write_tensors

ADAPTER = "default"
"""The name that peft gives the only adapter of a model."""

BLOCK_SIZE = 32
"""peft's default of `oft_block_size`."""

Check = Callable[[object, str, ErrorClass], object]
"""Checks the value of an option: the value, the option with its method, and the class of the error."""

SIZE: Check = functools.partial(whole_number, most=4096, example=8)  # above the widest layers, a rank costs memory only
COUNT: Check = functools.partial(whole_number, least=0)
POSITIVE: Check = functools.partial(
    finite_number, fits=lambda number: number > 0, expected="a number above 0", example=16
)
_LYCORIS: Options = {
    "r": SIZE,
    "alpha": POSITIVE,
    "rank_dropout": probability,
    "module_dropout": probability,
    "use_effective_conv2d": flag,
}
_LORA: Options = {"r": SIZE, "lora_alpha": POSITIVE, "lora_dropout": probability, "use_rslora": flag}


@dataclasses.dataclass(frozen=True)
class PeftKind:
    """A method of peft: its type there, and the options that it takes here.

    Options that change the base weights, train them, or choose layers are left out: every method adapts the layers
    that an adapter of tensorfact adapts, and `remove` restores the base model.

    Args:
        peft_type: The name in peft's `PeftType`.
        checks: The options by peft's names, each with the check of its value.
        fixed: Options that make the method what it is.
        layers: Types of layers that the method adapts.
    """

    peft_type: str
    checks: Options
    fixed: Options = dataclasses.field(default_factory=dict)
    layers: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d)


KINDS: Mapping[str, PeftKind] = MappingProxyType(
    {
        "lora": PeftKind("LORA", _LORA),
        "dora": PeftKind("LORA", _LORA, {"use_dora": True}),
        "vera": PeftKind(
            "VERA",
            {"r": SIZE, "d_initial": finite_number, "vera_dropout": probability, "projection_prng_key": COUNT},
            layers=(nn.Linear,),
        ),
        "lokr": PeftKind(
            "LOKR",
            {
                **_LYCORIS,
                "rank_dropout_scale": flag,
                "decompose_both": flag,
                "decompose_factor": functools.partial(whole_number, least=-1, example=8),
            },
        ),
        "loha": PeftKind("LOHA", _LYCORIS),
        "oft": PeftKind(
            "OFT",
            {
                "r": COUNT,
                "oft_block_size": COUNT,
                "module_dropout": probability,
                "coft": flag,
                "eps": POSITIVE,
                "block_share": flag,
                "use_cayley_neumann": flag,
                "num_cayley_neumann_terms": SIZE,
            },
            layers=(nn.Linear,),  # peft's rotation of a convolution's overlapping windows is not the identity at first
        ),
    }
)
"""The methods by their names, without the prefix `peft-`."""


@dataclasses.dataclass(frozen=True)
class PeftMethod:
    """A method of peft, trained as every other method: peft makes the layers, `fit` trains them and the head.

    It adapts the linear layers and convolutions whose weights are in `plan_for(model)` and which the model calls. The
    numbers at the start depend on the seed alone; for VeRA it is also the `projection_prng_key`, unless that is given.

    Args:
        name: `lora`, `dora`, `vera`, `lokr`, `loha` or `oft`.
        options: Options by peft's own names; those that are left out have peft's defaults.

    Raises:
        AdaptError: The method is unknown, or an option has an invalid value.
        TypeError: The method does not have an option of this name.

    Examples:
        >>> from tensorfact.lab import nano
        >>> method = PeftMethod("lora", {"r": 8, "lora_alpha": 16})
        >>> method.label
        'peft-lora r=8 lora_alpha=16'
        >>> method.attach(nano(), seed=0).num_parameters
        73728
    """

    name: str
    options: Options = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of(self.name, KINDS, "PeftMethod: name", AdaptError)
        checks = KINDS[self.name].checks
        for option, value in self.options.items():
            if option not in checks:
                raise TypeError(
                    f"peft-{self.name} has no option {option!r}{nearest(option, checks)} (it has {', '.join(checks)})"
                )
            checks[option](value, f"peft-{self.name}: {option}", AdaptError)
        object.__setattr__(self, "options", dict(self.options))

    @property
    def label(self) -> str:
        """Name of the method in tables."""
        return " ".join([f"peft-{self.name}", *(f"{option}={value}" for option, value in self.options.items())])

    def attach(self, model: nn.Module, seed: int) -> PeftAttached:
        """Let peft put its layers around those of the model, in place; modes, devices and base weights stay.

        Args:
            model: The model, on any device, `meta` included.
            seed: Seed of the initial numbers. The global random state is unchanged.

        Raises:
            AdaptError: peft is not installed, refuses the options for this model, or adapts no layer of it; or the
                model is adapted already.
            PlanError: The model has no default plan.
        """
        _peft()
        refuse_adapted(model)
        if hasattr(model, BASELINE):
            raise AdaptError(f"the model already has an attribute {BASELINE!r}", fix=f"rename {BASELINE!r}")
        if (held := layer_of_peft(model)) is not None or hasattr(model, "peft_config"):
            raise AdaptError(
                f"{type(model).__name__} holds adapters of peft already",
                got=f"a layer of peft at {held!r}" if held else "an attribute peft_config",
                fix="model = model.merge_and_unload() or model = model.unload() on the model of peft first",
            )
        flags = [(parameter, parameter.requires_grad) for parameter in base_parameters(model).values()]
        head = head_parameters(model, True)
        layers = self._layers(model)
        self._check_blocks(layers)
        with _drawing(seed):
            if not (layers := self._called(model, layers, seed)):
                kinds = " or ".join(f"nn.{kind.__name__}" for kind in KINDS[self.name].layers)
                raise AdaptError(
                    f"peft-{self.name} adapts no layer of {type(model).__name__}",
                    expected=f"weights in plan_for(model) that belong to a called {kinds}",
                    fix="leave this baseline out",
                )
            tuner = self._tuner(model, layers, seed)
        for name, layer in layers.items():
            model.get_submodule(name).train(layer.training)  # peft creates layers in training mode
        for name, parameter in base_parameters(model).items():
            if name in head:
                parameter.requires_grad_(True)
        return PeftAttached(model, self.name, tuner, head, flags)

    def _config(self, layers: Mapping[str, nn.Module], seed: int) -> Any:
        """Return peft's configuration for these layers."""
        kind = KINDS[self.name]
        names = "|".join(map(re.escape, layers))  # a pattern: in a list, `a.b` would also stand for `c.a.b`
        seeded = {"projection_prng_key": seed} if "projection_prng_key" in kind.checks else {}
        config = _peft().mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind.peft_type]
        return config(**{**seeded, **self.options, **kind.fixed}, target_modules=names)

    def _layers(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the layers, by name, whose weights are in the model's plan and which the method adapts."""
        found = {}
        for parameter in plan_for(model).resolve(model).parameters:
            layer, attribute = owner_of(model, parameter)
            if attribute == "weight" and layer is not model and isinstance(layer, KINDS[self.name].layers):
                found[parameter.removesuffix(".weight")] = layer
        return found

    def _called(self, model: nn.Module, layers: dict[str, nn.Module], seed: int) -> dict[str, nn.Module]:
        """Leave out the layers that the model never calls; all stay if it does not run without values.

        Raises:
            AdaptError: The model runs, but not with peft's layers.
        """
        example = known_example(model)
        if example is None or not layers:
            return layers
        from ...integrations.peft_layers import unused_layers  # imports peft

        try:
            unused, _ = unused_layers(model, self._config(layers, seed), example)
        except Exception as error:  # of peft, or of a model that needs values
            alone = outline(model)
            with observing(alone):
                model_runs = runs(lambda: example.on_meta().run(alone))
            if model_runs:
                raise self._refusal(model, error) from error
            return layers
        return {name: layer for name, layer in layers.items() if name not in unused}

    def _check_blocks(self, layers: Mapping[str, nn.Module]) -> None:
        """Raise if OFT's blocks do not divide the inputs; peft would warn, and take blocks of another size.

        Raises:
            AdaptError: A number of inputs is not a multiple of the size or the number of blocks.
        """
        if self.name != "oft":
            return
        option = "r" if self.options.get("r") else "oft_block_size"
        given = self.options.get(option, BLOCK_SIZE)
        widths = sorted({layer.in_features for layer in layers.values() if isinstance(layer, nn.Linear)})
        if not given or all(width % given == 0 for width in widths):
            return
        common = math.gcd(*widths)
        best = max((size for size in range(2, common + 1) if common % size == 0 and size <= given), default=0)
        raise AdaptError(
            f"peft-oft: {option}",
            expected=f"a divisor of the number of inputs of every layer ({', '.join(map(str, widths))})",
            got=str(given),
            fix=f"{option}={best}" if best else "leave this baseline out",
        )

    def _tuner(self, model: nn.Module, layers: Mapping[str, nn.Module], seed: int) -> Any:
        """Return peft's tuner, which has put its layers into the model; if it raises, the model is restored."""
        flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        try:
            config = self._config(layers, seed)
            return _peft().mapping.PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, config, ADAPTER)
        except Exception as error:  # whatever peft raises
            for name, layer in layers.items():
                owner, attribute = owner_of(model, name)
                setattr(owner, attribute, layer)
            _restore(flags)
            raise self._refusal(model, error) from error

    def _refusal(self, model: nn.Module, error: Exception) -> AdaptError:
        changed = f"change {', '.join(self.options)}, or " if self.options else ""
        return AdaptError(
            f"peft-{self.name} cannot be attached to {type(model).__name__}",
            expected=f"options that peft accepts ({', '.join(KINDS[self.name].checks)}), and layers that it runs on",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            fix=f"{changed}leave this baseline out",
        )


def peft_method(name: str, **options: Any) -> PeftMethod:
    """Return a method of peft, its options given as keywords.

    Args:
        name: As in `PeftMethod`.
        options: As in `PeftMethod`.

    Raises:
        AdaptError: As `PeftMethod`.
        TypeError: As `PeftMethod`.

    Examples:
        >>> peft_method("oft", oft_block_size=8).label
        'peft-oft oft_block_size=8'
    """
    return PeftMethod(name, options)


class PeftAttached(nn.Module):
    """peft's layers around those of a model, registered as `model.baseline`. The base is frozen, the head trains.

    It holds no parameters itself: they are in the layers. A deep copy of the model has layers of its own.

    Args:
        model: The model with peft's layers.
        name: As in `PeftMethod`.
        tuner: peft's tuner.
        head: Names of the head's parameters.
        flags: The base model's parameters, each with `requires_grad` as it was before.
    """

    def __init__(
        self, model: nn.Module, name: str, tuner: Any, head: tuple[str, ...], flags: list[tuple[nn.Parameter, bool]]
    ) -> None:
        super().__init__()
        self.training = model.training
        self.__dict__.update(_model=model, _tuner=tuner)  # not as submodules, which the model has already
        self.name, self.head, self._flags = name, head, flags
        self.merged = self.removed = False
        base = {id(parameter) for parameter, _ in flags}
        self.num_parameters = sum(p.numel() for p in model.parameters() if id(p) not in base)
        """Number of parameters in peft's layers."""
        model.add_module(BASELINE, self)

    def merge(self) -> None:
        """Let peft add the trained change to the base weights; its layers stay in the model, but compute nothing.

        Raises:
            AdaptError: It is merged or removed.
        """
        self._require_attached()
        if self.merged:
            raise AdaptError(f"peft-{self.name} is merged already", fix="call merge() once")
        self.__dict__["_tuner"].merge_adapter()
        self.merged = True

    def save(self, path: AnyPath) -> None:
        """Write the state of peft's layers, with the names that peft saves them by, and the head to one file.

        For VeRA the state includes the two frozen projections.

        Args:
            path: The file; its folder must exist.

        Raises:
            AdaptError: It is removed.
            CheckpointError: The file cannot be written.
        """
        self._require_attached()
        tuner = self.__dict__["_tuner"]
        whole = nn.Module()  # named as in a model of peft, where `base_model` is the tuner
        whole.add_module("base_model", tuner)
        whole.__dict__["peft_config"] = tuner.peft_config
        state: dict[str, Tensor] = _peft().get_peft_model_state_dict(whole, adapter_name=ADAPTER)
        parameters = base_parameters(self.__dict__["_model"])
        description = {"kind": BASELINE, "method": f"peft-{self.name}"}
        write_tensors(path, {**state, **{name: parameters[name] for name in self.head}}, description)

    def remove(self) -> None:
        """Take peft's layers out of the model, and restore `requires_grad`; weights that were merged stay merged."""
        if self.removed:
            return
        model: nn.Module = self.__dict__["_model"]
        model._modules.pop(BASELINE, None)
        self.__dict__["_tuner"].unload()
        _restore(self._flags)
        self.removed = True

    def _require_attached(self) -> None:
        if self.removed:
            raise AdaptError(f"peft-{self.name} is removed already", fix="call merge() and save() before remove()")


def _peft() -> Any:
    """Import peft, which need not be installed.

    Raises:
        AdaptError: It is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise AdaptError("methods of peft need peft", fix="pip install 'tensorfact[peft]'") from error
    return peft


@contextlib.contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Draw numbers on the CPU from a seed; afterwards, torch's global random state is as before.

    peft draws from the global state, and moves what it has drawn to the device of each layer.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield


def _restore(flags: list[tuple[nn.Parameter, bool]]) -> None:
    for parameter, required in flags:
        parameter.requires_grad_(required)

"""Layers of peft's adapters that a model never calls, so that they train nothing."""

from __future__ import annotations

import copy
import os
from typing import Any, cast

import torch
from peft import PeftConfig, inject_adapter_in_model
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from ..errors import AdaptError
from ..model.example import ExampleInput, observing, outline
from ..model.parameters import owner_of
from .peft import TensorfactLayer


def peft_config(peft: object) -> PeftConfig | None:
    """Return the configuration of peft in a folder, or the one that is given; None for a model.

    Args:
        peft: A configuration, a folder with `adapter_config.json`, or a model that peft has adapted.

    Raises:
        AdaptError: It is something else, or the folder holds no configuration.
    """
    if isinstance(peft, PeftConfig):
        return peft
    if isinstance(peft, nn.Module):
        return None
    try:
        if isinstance(peft, (str, os.PathLike)) and os.path.isfile(os.path.join(peft, "adapter_config.json")):
            return PeftConfig.from_pretrained(os.fspath(peft))
        problem = "no such folder" if isinstance(peft, (str, os.PathLike)) else type(peft).__name__
    except Exception as error:  # whatever peft raises
        problem = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:150]}"
    raise AdaptError(
        "doctor: peft",
        expected="a configuration of peft, a folder with adapter_config.json, or a model that peft has adapted",
        got=problem,
        fix="peft=LoraConfig(target_modules='all-linear')",
    )


def base_of(model: nn.Module) -> nn.Module:
    """Return the base model of one that peft has adapted, on the meta device; other models as they are.

    Args:
        model: The model; it is only read.

    Raises:
        AdaptError: The layers of peft are in the model itself, where `get_peft_model` returns another one.
    """
    if not hasattr(model, "peft_config"):
        return model
    copied: Any = outline(model)
    if hasattr(copied, "unload"):
        return cast("nn.Module", copied.unload())
    if hasattr(copied, "get_base_model") and copied.active_peft_config.is_prompt_learning:
        return _without_copies(copied.get_base_model())
    raise AdaptError(
        f"doctor: {type(model).__name__} holds adapters of peft that cannot be taken out of it",
        cause="inject_adapter_in_model or model.add_adapter was called, or the model in a model of peft was passed",
        fix="doctor(model_of_peft) with what get_peft_model returned, or doctor(base_model, peft=config)",
    )


def _without_copies(model: nn.Module) -> nn.Module:
    """Put the original modules back, such as the head, of which peft trains a copy."""
    for name, module in list(model.named_modules()):
        if isinstance(module, AuxiliaryTrainingWrapper):
            owner, attribute = owner_of(model, name)
            setattr(owner, attribute, module.original_module)
    return model


def unused_layers(model: nn.Module, peft: object, example: ExampleInput) -> tuple[tuple[str, ...], int]:
    """Return the layers of peft's adapters that the forward pass does not call, and the number of all its layers.

    Such a layer has no effect: the model reads the weight without calling the layer, as `nn.MultiheadAttention` and
    Swin-V2 do, or does not reach the layer. A copy runs on the meta device.

    Args:
        model: The base model.
        peft: A configuration of peft, a folder with one, or the model that peft has adapted.
        example: An input of the model.

    Raises:
        AdaptError: `peft` is something else.
        Exception: Whatever peft raises for this configuration, or the model for this input.
    """
    config = peft_config(peft)
    if config is None:
        adapted: Any = outline(peft)  # type: ignore[arg-type]  # a model, if it is no configuration
    else:
        adapted = None if config.is_prompt_learning else _adapted(model, config)
    layers = {} if adapted is None else _layers(adapted)
    if not layers:
        return (), 0
    outer = {name for name in layers if not any(name.startswith(f"{other}.") for other in layers if other != name)}
    called: set[str] = set()
    for name in outer:
        layers[name].register_forward_pre_hook(lambda *_, name=name: called.add(name))
    with observing(adapted), torch.enable_grad():  # without gradients, torch's fused layers call no submodule
        example.on_meta().run(adapted)
    return tuple(name.removeprefix("base_model.model.") for name in layers if name in outer - called), len(outer)


def _adapted(model: nn.Module, config: PeftConfig) -> nn.Module:
    """Return a copy of a model without values, with an adapter of peft."""
    config = copy.deepcopy(config)  # peft writes what it finds in the model into it
    tuner: Any = PEFT_TYPE_TO_TUNER_MAPPING.get(config.peft_type)
    if getattr(tuner, "uses_shared_state", False):  # inject_adapter_in_model refuses VeRA and others
        return outline(tuner(outline(model), config, "default").model)
    return cast("nn.Module", inject_adapter_in_model(config, outline(model)))


def _layers(adapted: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that peft has put around those of a model. A `TensorfactLayer` is not around any."""
    return {
        name: module
        for name, module in adapted.named_modules()
        if isinstance(module, BaseTunerLayer) and not isinstance(module, TensorfactLayer)
    }

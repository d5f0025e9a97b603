"""Example inputs for a model, and forward passes that leave the model as it was."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import AdaptError, UnusedError
from .values import equal_values, shapes_only


class ExampleInput(NamedTuple):
    """The arguments of one forward pass."""

    arguments: tuple[object, ...] = ()
    keywords: Mapping[str, object] = {}

    def run(self, model: nn.Module) -> object:
        """Call a model with these arguments."""
        return model(*self.arguments, **self.keywords)

    def on_meta(self) -> ExampleInput:
        """Return the arguments on the meta device, without masks, whose values a model would ask for."""
        named = {name: _on_meta(value) for name, value in self.keywords.items() if not name.endswith("mask")}
        return ExampleInput(tuple(map(_on_meta, self.arguments)), named)


def _on_meta(value: object) -> object:
    return value.to("meta") if isinstance(value, Tensor) else value


def as_example(value: object) -> ExampleInput:
    """Return the arguments of a forward pass from a tensor, a tuple of arguments, or a mapping of keywords."""
    if isinstance(value, Mapping):
        return ExampleInput((), dict(value))
    return ExampleInput(tuple(value) if isinstance(value, (tuple, list)) else (value,))


def known_example(model: nn.Module) -> ExampleInput | None:
    """Return an input made from timm's `pretrained_cfg` or transformers' `dummy_inputs`; None for other models."""
    try:
        return _derived(model)
    except Exception:  # the attributes of an unknown model may be anything
        return None


def _derived(model: nn.Module) -> ExampleInput | None:
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return None
    if shape := timm_shape(model):
        return ExampleInput((_noise(parameter, *shape),))
    config: object = getattr(model, "config", None)
    words = getattr(model, "dummy_inputs", None) if config is not None else None
    keywords = {name: value.to(parameter.device) for name, value in (words or {}).items() if isinstance(value, Tensor)}
    name, shape = _main_input(model)
    ids = keywords.get(_TEXT)
    if ids is not None and (decoded := f"decoder_{_TEXT}") in inspect.signature(model.forward).parameters:
        keywords.setdefault(decoded, ids if shape is None else ids[:1])
    if shape is None:
        return ExampleInput((), keywords) if keywords else None
    if not hasattr(config, "text_config"):
        keywords.pop(_TEXT, None)
    return ExampleInput((), {name: _noise(parameter, *shape), **keywords})


def _noise(parameter: Tensor, *shape: int) -> Tensor:
    """Return a batch of one input on the device and in the dtype of a parameter."""
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0), device="cpu")
    return noise.to(parameter.device, parameter.dtype)


def timm_shape(model: nn.Module) -> tuple[int, ...] | None:
    """Return the (channels, height, width) of a timm model's images; None for other models."""
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or "input_size" not in config:
        return None
    channels, *size = config["input_size"]
    first = config.get("first_conv")
    with contextlib.suppress(AttributeError):  # created with another number of channels than pretrained
        weight = model.get_parameter(f"{first}.weight")
        channels = weight.shape[1] if weight.dim() > 2 else channels  # a linear layer takes whole patches
    # a model may be created for another image size than it was pretrained on
    sizes = (getattr(module, "img_size", None) for module in model.modules())
    own = next((found for found in sizes if isinstance(found, tuple)), tuple(size))
    return (int(channels), *own)


def image_shape(model: nn.Module) -> tuple[int, ...] | None:
    """Return the (channels, height, width) of the images that a model is made for; None if it does not say.

    Args:
        model: The model.
    """
    if shape := timm_shape(model):
        return shape
    config: object = getattr(model, "config", None)
    config = getattr(config, "vision_config", config)
    size = getattr(config, "image_size", None)
    if not isinstance(size, (int, tuple, list)):
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return (getattr(config, "num_channels", 3), height, width)


_TEXT = "input_ids"
_IMAGE, _SAMPLES = 64, 4000
"""The size of images, and the length of sound, for models of transformers that take any."""


def _main_input(model: nn.Module) -> tuple[str, tuple[int, ...] | None]:
    """Return the name of a model's main input, as transformers calls it, and its shape unless it is made of words."""
    config: object = getattr(model, "config", None)
    name = str(getattr(model, "main_input_name", ""))
    if name == "input_values":
        return name, (_SAMPLES,)
    if name == "input_features":
        bins, positions = getattr(config, "num_mel_bins", None), getattr(config, "max_source_positions", None)
        return name, (bins, 2 * positions) if isinstance(bins, int) and isinstance(positions, int) else None
    if shape := image_shape(model):
        return "pixel_values", shape
    return name, (getattr(config, "num_channels", 3), _IMAGE, _IMAGE) if name == "pixel_values" else None


@contextlib.contextmanager
def observing(model: nn.Module) -> Iterator[None]:
    """Evaluate a model without gradients; afterwards restore modes, buffers and torch's random state."""
    modes = {module: module.training for module in model.modules()}
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not buffer.is_meta
    ]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(list(devices)):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                if not equal_values(buffer, value):  # an unchanged buffer may be read-only
                    buffer.copy_(value)
                module._buffers[name] = buffer


def required_example(model: nn.Module, given: object) -> ExampleInput:
    """Return the given example input, or by default a known one.

    Raises:
        AdaptError: No example input is given or known, or the model is on the meta device.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise AdaptError("check: the model is on the meta device", fix="create it on 'cpu' or 'cuda'")
    found = known_example(model) if given is None else as_example(given)
    if found is None:
        raise AdaptError(
            f"check: no example input is known for {type(model).__name__}",
            expected="a timm model's pretrained_cfg, or a transformers model's dummy_inputs",
            fix="call check(example_input) with a tensor, a tuple of arguments or a dict of keywords",
        )
    return found


def outline(model: nn.Module, *shared: object) -> nn.Module:
    """Return a copy of a model on the meta device, where tensors have shapes but no values.

    The copy has no hooks on `load_state_dict`: an adapter has several on every module, and copies of them take long.

    Args:
        model: The model to copy.
        shared: Objects that the copy refers to instead of copying them.
    """
    memo: dict[int, object] = {id(one): one for one in shared}
    for module in model.modules():
        memo |= {id(hooks): OrderedDict() for hooks in _unneeded(module)}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = shapes_only(tensor)
        memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo)


def _unneeded(module: nn.Module) -> Iterator[object]:
    """Iterate over the hooks on `load_state_dict`, and over dictionaries of hooks that are empty anyway."""
    yield from (module._load_state_dict_pre_hooks, module._load_state_dict_post_hooks)
    yield from (kept for kept in vars(module).values() if type(kept) is OrderedDict and not (kept or vars(kept)))


def called_names(model: nn.Module, given: object = None) -> set[str] | None:
    """Return the names of the modules that a forward pass calls; None without an example input that runs.

    The pass runs on a copy on the meta device if that works. Scripted modules, which take no hooks, count as called.

    Args:
        model: The model.
        given: The example input; by default a known one.
    """
    example = known_example(model) if given is None else as_example(given)
    if example is None:
        return None
    called: set[str] = set()

    def run(one: nn.Module, on: ExampleInput) -> bool:
        called.clear()
        hooks = []
        for name, module in one.named_modules():
            if isinstance(module, torch.jit._script.RecursiveScriptModule):
                called.add(name)
            else:
                hooks.append(module.register_forward_pre_hook(lambda _, __, name=name: called.add(name)))
        try:
            return runs(lambda: on.run(one))
        finally:
            for hook in hooks:
                hook.remove()

    with observing(model):
        ran = run(outline(model), example.on_meta()) or run(model, example)
    return called if ran else None


def runs(forward: Callable[[], object]) -> bool:
    """Return whether a forward pass runs; every error but `UnusedError` means that it does not."""
    try:
        forward()
    except UnusedError:
        raise
    except Exception:
        return False
    return True

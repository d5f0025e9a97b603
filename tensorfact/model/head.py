"""The head of a model, its classifier: parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ..errors import AdaptError, nearest
from .parameters import base_parameters


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the names of a timm model's classifier modules, from `pretrained_cfg["classifier"]`."""
    config = getattr(model, "pretrained_cfg", None)
    named = config.get("classifier") if isinstance(config, Mapping) else None
    names = named if isinstance(named, (tuple, list)) else (named,)
    return tuple(name for name in names if isinstance(name, str) and name)


def is_below(name: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether a parameter has one of these names or lies in a module of one of them."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def head_buffers(model: nn.Module, head: Iterable[str]) -> dict[str, Tensor]:
    """Return the buffers of the head's modules, such as a normalisation's running statistics."""
    modules = {name.rpartition(".")[0] for name in head}
    return {name: buffer for name, buffer in model.named_buffers() if name.rpartition(".")[0] in modules}


def head_parameters(model: nn.Module, train_head: bool | str) -> tuple[str, ...]:
    """Return the names of the head's parameters."""
    if not isinstance(train_head, (bool, str)):
        raise AdaptError(
            "adapt: train_head", expected="True, False or a module's name", got=repr(train_head), fix="train_head=True"
        )
    if not train_head or not isinstance(model, nn.Module):
        return ()
    prefixes = (train_head,) if isinstance(train_head, str) else head_prefixes(model)
    found = tuple(name for name in base_parameters(model) if is_below(name, prefixes))
    if isinstance(train_head, str) and not found:
        names = [name for name, _ in model.named_modules()]
        raise AdaptError(
            f"adapt: train_head={train_head!r} names no module with parameters",
            got=f"{train_head!r}{nearest(train_head, names)}",
            fix="pass the head's module name, or train_head=False",
        )
    return found

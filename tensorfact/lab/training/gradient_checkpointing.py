"""Gradient checkpointing, with the methods of timm and transformers models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from ...errors import TrainingError

TIMM = "set_grad_checkpointing"
TRANSFORMERS = "activation_checkpointing_enable", "gradient_checkpointing_enable"  # since 5.20, and before


@contextlib.contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Context in which a model recomputes activations in the backward pass; on exit its setting is restored.

    Args:
        model: A timm or transformers model, or one that contains such models.

    Raises:
        TrainingError: The model does not support it.
    """
    with contextlib.ExitStack() as stack:
        able = _able(model)
        if not able:
            raise TrainingError(
                f"fit: {type(model).__name__} does not support gradient checkpointing",
                cause=f"neither it nor a module in it has {TIMM}() or {TRANSFORMERS[-1]}()",
                fix="pass gradient_checkpointing=False, or give the model a set_grad_checkpointing(enable) method",
            )
        for module in able:
            try:
                stack.enter_context(_timm(module) if hasattr(module, TIMM) else _transformers(module))
            except (AssertionError, ValueError) as error:  # what timm and transformers raise
                raise TrainingError(
                    f"fit: {type(module).__name__} does not support gradient checkpointing",
                    got=str(error),
                    fix="pass gradient_checkpointing=False",
                ) from error
        yield


def _able(module: nn.Module) -> list[nn.Module]:
    """Return the outermost modules that support gradient checkpointing."""
    if any(hasattr(module, name) for name in (TIMM, *TRANSFORMERS)):
        return [module]
    return [found for child in module.children() for found in _able(child)]


@contextlib.contextmanager
def _timm(module: nn.Module) -> Iterator[None]:
    flags = {m: vars(m)["grad_checkpointing"] for m in module.modules() if "grad_checkpointing" in vars(m)}
    getattr(module, TIMM)(True)
    try:
        yield
    finally:
        for found, flag in flags.items():
            found.grad_checkpointing = flag


@contextlib.contextmanager
def _transformers(module: nn.Module) -> Iterator[None]:
    if any(getattr(m, "gradient_checkpointing", False) for m in module.modules()):
        yield
        return
    name = next(name for name in TRANSFORMERS if hasattr(module, name))
    hooks = {m: set(m._forward_hooks) for m in module.modules()}
    getattr(module, name)(**{name.replace("enable", "kwargs"): {"use_reentrant": False}})
    for m, before in hooks.items():  # they make embeddings require gradients, for reentrant checkpointing
        for key in m._forward_hooks.keys() - before:
            del m._forward_hooks[key]
    try:
        yield
    finally:
        getattr(module, name.replace("enable", "disable"))()

"""The stored parameters of adapted layers: a base weight that was exchanged is told from an effective one.

Reading `layer.weight` gives the effective weight W + s dW. Code that reads a weight and stores what it read would make
that the base, and the increment would count twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ..errors import AdaptError
from ..model.parameters import ATTRIBUTE, SLOTS
from ..model.values import is_quantized
from .factors import Factors
from .increments.cache import composable
from .slots import Slot

_ROUNDINGS = 8
"""How many roundings of the dtype a copied or rescaled weight may lie from what it was made of."""

_CLEARLY = 4
"""How many times nearer to the effective weight than to the base a weight is that was made of it."""


def confirm(slot: Slot, found: Tensor | None) -> Tensor:
    """Accept the parameter that an adapted layer holds now as its base weight.

    A moved, cast or reloaded base is accepted. A tensor that is no `Parameter` stands in for one call, as in
    `torch.func.functional_call`, and is not looked at.

    Args:
        slot: The adapted parameter.
        found: What the layer holds.

    Returns:
        What the layer holds.

    Raises:
        AdaptError: The layer holds no such parameter any more, or it was made of the effective weight.
    """
    if found is None:
        raise AdaptError(
            f"the layer of {slot.name!r} has lost its parameter",
            cause="a parametrization or pruning was put on it after adapt()",
            fix="remove it with torch.nn.utils.parametrize.remove_parametrizations, or adapt the model after it",
        )
    _refuse_changed(slot, found)
    if type(found) is not nn.Parameter or composable(found):
        return found
    base = slot.stored
    if base is not None:
        with torch.no_grad():
            _refuse_effective(slot, found, base)
    slot.stored = found
    return found


def _refuse_changed(slot: Slot, found: Tensor) -> None:
    """Raise if a base weight was quantised, or its factors were offloaded, after it was adapted."""
    if is_quantized(found) and not (slot.stored is not None and is_quantized(slot.stored)):
        raise AdaptError(
            f"the base weight of {slot.name!r} was quantised after adapt()",
            cause="its effective weight W + s dW was read and quantised, and became the base",
            fix="quantise the model before adapt(), or merge and remove the adapter before it is quantised",
        )
    if not found.is_meta and any(core.is_meta for core in slot.increment.factors.tensors()):
        raise AdaptError(
            f"the factors of {slot.name!r} were moved to the meta device after adapt()",
            cause="the adapted model was offloaded with accelerate, which loads no factors for a call",
            fix="accelerate.hooks.remove_hook_from_module(model.tensorfact, recurse=True), and then the same for model",
        )


def refuse_merged(module: nn.Module, factors: Mapping[str, Factors], state: Mapping[str, Tensor], prefix: str) -> None:
    """Refuse a `state_dict` of merged weights, before any of it is loaded into an adapted model or a part of it.

    Args:
        module: The model, or the part.
        factors: The factors of its adapted parameters, by tensor name.
        state: What is to be loaded.
        prefix: The module's name in it.

    Raises:
        AdaptError: A weight was made of the effective weight: by the factors as they are, or as the state has them.
    """
    start = f"{prefix}{ATTRIBUTE}.factors."
    incoming = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
    with torch.no_grad():
        for name, slot in _slots(module):
            found, base = state.get(prefix + name), slot.stored
            if not isinstance(found, Tensor) or base is None or found.shape != base.shape:
                continue
            _refuse_effective(slot, found, base)
            if incoming:
                with _holding(factors, incoming):
                    _refuse_effective(slot, found, base)


def _slots(module: nn.Module) -> Iterator[tuple[str, Slot]]:
    """Return the adapted parameters below a module, by all their names in it."""
    for path, layer in module.named_modules(remove_duplicate=False):
        for attribute, slot in layer.__dict__.get(SLOTS, {}).items():
            yield (f"{path}.{attribute}" if path else attribute), slot


def _refuse_effective(slot: Slot, found: Tensor, base: Tensor) -> None:
    plain = (Tensor, nn.Parameter)
    if found is base or found.shape != base.shape or found.is_meta or base.is_meta or type(base) not in plain:
        return
    eps = max(torch.finfo(tensor.dtype).eps for tensor in (found, base))
    from_base = _distance(found, base)
    if from_base <= eps:
        return
    from_effective = _distance(found, slot.effective(base))
    if from_effective <= _ROUNDINGS * eps and _CLEARLY * from_effective < from_base:
        raise AdaptError(
            f"the new base weight of {slot.name!r} is the effective weight W + s dW",
            cause="it was read from the adapted layer or from a merged model, and stored as the base",
            fix="call adapter.remove() before merged weights are loaded, or adapter.merge() before code rewrites them",
        )


def _distance(found: Tensor, source: Tensor) -> float:
    """Return how far a weight is from a multiple, row by row, of another: 0 for a copy and for a rescaled one.

    Layers that are fused for deployment are rescaled by rows.
    """
    wide = torch.promote_types(torch.promote_types(found.dtype, source.dtype), torch.float32)
    rows = found.shape[0] if found.dim() > 1 else 1
    new, old = found.to(wide).reshape(rows, -1), source.to(found.device, wide).reshape(rows, -1)
    tiny = torch.finfo(wide).tiny
    factors = (new * old).sum(1, keepdim=True) / old.square().sum(1, keepdim=True).clamp_min(tiny)
    return float((new - factors * old).norm() / new.norm().clamp_min(tiny))


@contextlib.contextmanager
def _holding(factors: Mapping[str, Factors], cores: Mapping[str, Tensor]) -> Iterator[None]:
    """Let factors hold other cores while the context lasts."""
    kept: list[tuple[dict[str, nn.Parameter | None], str, nn.Parameter | None]] = []
    try:
        for tensor, each in factors.items():
            stored = each.cores._parameters
            for core, own in stored.items():
                new = cores.get(f"{tensor}.cores.{core}")
                if own is not None and new is not None and new.shape == own.shape:
                    kept.append((stored, core, own))
                    stored[core] = nn.Parameter(new.to(own), requires_grad=False)
        yield
    finally:
        for stored, core, own in kept:
            stored[core] = own

"""Overwrite the values of an adapter with those of a saved one, in place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..plan import TensorizationPlan
from ..storage import AdapterState
from ..storage.description import FACTORS, HEAD, START
from .beside import Beside
from .factors import named
from .links import Links


def reload(state: AdapterState, plan: TensorizationPlan, links: Links, beside: Beside, *, check_base: bool) -> None:
    """Overwrite factors and what trained beside them; all other base values that are kept come back.

    On an error nothing is written.

    Args:
        state: The saved adapter.
        plan: The plan of the adapter on the model.
        links: Its factors.
        beside: What trains beside them.
        check_base: Refuse values that were trained on other base weights.

    Raises:
        CheckpointError: It is another adapter, or what it stores beside the factors has other shapes.
        FingerprintError: It was made for another base model.
    """
    description = state.description
    _require_same(
        {
            "plan": (description.plan, plan),
            "formats": (dict(description.formats), links.formats),
            "scales": (_given(description.scales, links), _given(links.scales, links)),
            "subtract_start": (description.subtracts_start, bool(links.starts)),
        }
    )
    head = description.head_of(links.model)
    _require_shapes(description.head, head)
    if check_base:
        description.check_base(beside.base(description.head), links.resolved.parameters, "the saved adapter")
    parts = {FACTORS: named(links.factors), START: named(links.starts), HEAD: head}
    beside.restore()  # what the saved adapter does not store is that of the base model
    links.rescale(description.scales)
    with torch.no_grad():
        for prefix, own in parts.items():
            for name, tensor in own.items():
                tensor.copy_(state.tensors[prefix + name])


def _given(scales: Mapping[str, float], links: Links) -> dict[str, float]:
    """Return the scales of the tensors whose scale was given; a derived one is taken from the saved adapter."""
    return {name: scale for name, scale in scales.items() if name not in links.derived}


def _require_same(parts: Mapping[str, tuple[object, object]]) -> None:
    for part, (saved, own) in parts.items():
        if saved != own:
            raise CheckpointError(
                f"load: the saved adapter has other values for {part}",
                expected=str(own),
                got=str(saved),
                cause="it was written by a run with other options of adapt()",
                fix="call adapter.remove(), then load_adapter(model, path)",
            )


def _require_shapes(stored: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor]) -> None:
    for name, shape in stored.items():
        if name not in found or tuple(found[name].shape) != shape:
            raise CheckpointError(
                f"load: the saved adapter does not fit the model at {name!r}",
                expected=str(tuple(found[name].shape)) if name in found else "no such parameter",
                got=f"shape {shape}",
                cause="a head with another number of classes",
                fix="create the model with the num_classes the adapter was trained with",
            )

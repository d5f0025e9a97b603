"""An adapter's state, as its file holds it: a copy of the factors, of what trained beside them, and a description."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..plan import TensorizationPlan
from ..storage import AdapterState
from ..storage.description import FACTORS, HEAD, START, AdapterDescription
from .beside import Beside
from .factors import named
from .links import Links


def snapshot(
    plan: TensorizationPlan,
    links: Links,
    beside: Beside,
    cores: Mapping[str, Tensor] | None = None,
    head: Mapping[str, Tensor] | None = None,
) -> AdapterState:
    """Return a copy of an adapter without its model.

    Args:
        plan: The plan.
        links: The factors and the parameters that they change.
        beside: What trains beside the factors.
        cores: The cores by `TENSOR.CORE`; default: all that are stored.
        head: Parameters of a head in the place of the model's own, by name.

    Raises:
        AdaptError: The head was removed, or an adapted weight was trained itself.
    """
    stored, resolved, options = {**beside.stored(), **(head or {})}, links.resolved, links.options
    description = AdapterDescription(
        plan,
        dict(links.formats),
        dict(links.scales),
        options.dropout.plain,
        beside.fingerprint(stored),
        {tensor.name: tensor.modes for tensor in resolved.tensors},
        {name: tuple(tensor.shape) for name, tensor in stored.items()},
        extents={tensor.name: tensor.extents for tensor in resolved.tensors},
        seed=options.seed,
        subtracts_start=bool(links.starts),
    )
    parts = {FACTORS: named(links.factors) if cores is None else cores, START: named(links.starts), HEAD: stored}
    tensors = {f"{prefix}{name}": t.detach().clone() for prefix, each in parts.items() for name, t in each.items()}
    return AdapterState(description, tensors)

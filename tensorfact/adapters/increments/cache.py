"""What is formed of the factors once, for all layers, and used until a factor changes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..factors import CountedParameter

PLAIN = (Tensor, nn.Parameter, CountedParameter)
"""What a tensor is if nobody looks on; a subclass may mean anything by an operation."""

Make = Callable[[Sequence[Tensor]], Sequence[Tensor]]


def composable(*tensors: Tensor | None) -> bool:
    """Return whether plain differentiable operations are called for: a compiler, a transform or a subclass looks on.

    Args:
        tensors: What is computed with.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or any(type(t) not in PLAIN for t in tensors if t is not None)
    )


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype of the autocast in force on a device; None where there is none."""
    kind = device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else None


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context in which operands keep their dtypes."""
    on = autocast_dtype(device) is not None
    return torch.autocast(device.type, enabled=False) if on else contextlib.nullcontext()


@dataclasses.dataclass
class _Entry:
    """What was formed, of what.

    Args:
        sources: What it was formed of, and its storage; held, so that nothing else gets their place in memory.
        state: What tells whether they changed.
        tracked: Whether gradients pass through it.
        results: What was formed, each with one tensor a parameter, or one tensor for all.
    """

    sources: tuple[Tensor, ...]
    state: tuple[object, ...]
    tracked: bool
    results: tuple[tuple[Tensor, ...], ...] = ()


class Formed:
    """Something formed of tensors, kept until one of them changes or got a gradient through it.

    Torch counts the changes of a tensor, a `CountedParameter` those through `.data`. For what neither counts, a write
    to memory that numpy shares, everything is formed anew after a backward pass, and when `forget` is called. A deep
    copy forms its own.

    Args:
        make: What forms it, in differentiable operations.
        stacked: For every result, whether its first dimension runs over parameters.
    """

    def __init__(self, make: Make, stacked: Sequence[bool]) -> None:
        self._make, self._stacked = make, tuple(stacked)
        self._entries: dict[torch.dtype, _Entry] = {}

    def __call__(self, sources: Sequence[Tensor], dtype: torch.dtype) -> tuple[tuple[Tensor, ...], ...]:
        """Return what is formed: for every result, one tensor a parameter if it is stacked, else one for all.

        Args:
            sources: Of which tensors.
            dtype: The dtype of the results; they are computed in that of the sources.
        """
        tracked = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        state, entry = _state(sources), self._entries.get(dtype)
        if entry is not None and entry.state == state and entry.tracked >= tracked:
            return entry.results
        entry = _Entry((*sources, *(source.detach() for source in sources)), state or (), tracked)
        if tracked:
            results = _Form.apply(self._make, dtype, self.forget, *sources)
        else:
            with torch.inference_mode(False), torch.no_grad(), without_autocast(sources[0].device):
                results = [result.to(dtype) for result in self._make(sources)]
        entry.results = tuple(r.unbind() if s else (r,) for r, s in zip(results, self._stacked, strict=True))
        if state is not None:
            self._entries[dtype] = entry
        return entry.results

    def forget(self) -> None:
        """Form it anew at the next call."""
        self._entries.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Formed:
        return Formed(self._make, self._stacked)


def _state(sources: Sequence[Tensor]) -> tuple[object, ...] | None:
    """Return what changes whenever one of the tensors does; None where torch does not count changes."""
    try:
        return tuple((id(s), s._version, _accesses(s), s.data_ptr(), s.dtype, s.requires_grad) for s in sources)
    except RuntimeError:  # inference tensors
        return None


def require_version(tensor: Tensor, version: int, what: str) -> None:
    """Raise what torch raises for a tensor that was changed between a forward pass and its backward pass.

    Args:
        tensor: The tensor.
        version: How often it was changed by the forward pass.
        what: What it is.
    """
    if tensor._version != version:
        raise RuntimeError(
            f"{what} of shape {tuple(tensor.shape)}, needed for gradient computation, has been modified by an inplace"
            f" operation: it is at version {tensor._version}, the forward pass used version {version}; run backward()"
            " before optimizer.step(), or the forward pass again"
        )


def _accesses(source: Tensor) -> int:
    return source.accesses if isinstance(source, CountedParameter) else 0


class _Form(torch.autograd.Function):
    """Forms something on a graph of its own, which outlives a backward pass: other passes may come through it."""

    @staticmethod
    def forward(ctx: Any, make: Make, dtype: torch.dtype, used: Callable[[], None], *sources: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.make, ctx.dtype, ctx.used, ctx.sources = make, dtype, used, sources
        ctx.versions = [None if source.is_inference() else source._version for source in sources]
        ctx.leaves = [source.detach().requires_grad_(source.requires_grad) for source in sources]
        # hooks on saved tensors, as checkpointing sets them, are for the graph outside
        inside = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
        with torch.enable_grad(), inside, without_autocast(sources[0].device):
            ctx.results = [result.to(dtype) for result in make(ctx.leaves)]
        return tuple(result.detach() for result in ctx.results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        ctx.used()
        for source, version in zip(ctx.sources, ctx.versions, strict=True):
            if version is not None:  # inside, hooks have switched this check of torch's off
                require_version(source, version, "a factor")
        leaves, results = ctx.leaves, ctx.results
        twice = torch.is_grad_enabled()  # a gradient of the gradient will be asked for
        if twice:
            leaves, results = ctx.sources, [result.to(ctx.dtype) for result in ctx.make(ctx.sources)]
        met = [(r, g) for r, g in zip(results, gradients, strict=True) if g is not None and r.requires_grad]
        found = iter(
            torch.autograd.grad(
                [result for result, _ in met],
                [leaf for leaf in leaves if leaf.requires_grad],
                [gradient for _, gradient in met],
                retain_graph=True,
                create_graph=twice,
                allow_unused=True,
            )
        )
        return None, None, None, *(next(found) if leaf.requires_grad else None for leaf in leaves)

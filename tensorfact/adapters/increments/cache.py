"""Cache of tensors that are formed from the factors once for all layers, and reused until a factor changes."""

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
"""Ordinary tensor types; other subclasses may redefine operations."""

Make = Callable[[Sequence[Tensor]], Sequence[Tensor]]


def composable(*tensors: Tensor | None) -> bool:
    """Return whether plain differentiable operations are required: under a compiler, a transform or tensor subclasses.

    Args:
        tensors: Operands of the computation.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or any(type(t) not in PLAIN for t in tensors if t is not None)
    )


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype of the active autocast on a device, or None."""
    kind = device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else None


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context in which operands keep their dtypes."""
    on = autocast_dtype(device) is not None
    return torch.autocast(device.type, enabled=False) if on else contextlib.nullcontext()


@dataclasses.dataclass
class _Entry:
    """One cached result.

    Args:
        sources: The source tensors and their storage; held, so that their memory is not reused.
        state: Identities and versions of the sources, compared to detect changes.
        tracked: Whether gradients pass through the results.
        results: The formed tensors: for each result one tensor per parameter, or one tensor for all.
    """

    sources: tuple[Tensor, ...]
    state: tuple[object, ...]
    tracked: bool
    results: tuple[tuple[Tensor, ...], ...] = ()


class Formed:
    """Results formed from source tensors, cached until a source changes or receives a gradient through them.

    Torch counts in-place changes of a tensor, and `CountedParameter` those through `.data`. Neither counts writes to
    memory shared with numpy, so the cache is also cleared after a backward pass and by `forget`. A deep copy starts
    with an empty cache.

    Args:
        make: Forms the results from the sources, in differentiable operations.
        stacked: For each result, whether its first dimension runs over parameters.
    """

    def __init__(self, make: Make, stacked: Sequence[bool]) -> None:
        self._make, self._stacked = make, tuple(stacked)
        self._entries: dict[torch.dtype, _Entry] = {}

    def __call__(self, sources: Sequence[Tensor], dtype: torch.dtype) -> tuple[tuple[Tensor, ...], ...]:
        """Return the results: each one tensor per parameter if it is stacked, else one tensor for all.

        Args:
            sources: The source tensors.
            dtype: Dtype of the results; they are computed in the dtype of the sources.
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
        """Clear the cache."""
        self._entries.clear()

    def __deepcopy__(self, memo: object) -> Formed:
        return Formed(self._make, self._stacked)


def _state(sources: Sequence[Tensor]) -> tuple[object, ...] | None:
    """Return a value that changes whenever one of the tensors does; None if torch does not count their changes."""
    try:
        return tuple((id(s), s._version, _accesses(s), s.data_ptr(), s.dtype, s.requires_grad) for s in sources)
    except RuntimeError:  # inference tensors
        return None


def require_version(tensor: Tensor, version: int, what: str) -> None:
    """Raise torch's error for a tensor that was changed in place between a forward pass and its backward pass.

    Args:
        tensor: A tensor needed by the backward pass.
        version: Its version in the forward pass.
        what: What the tensor is, for the message.
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
    """Forms the results on a separate autograd graph, which is kept for further backward passes."""

    @staticmethod
    def forward(
        ctx: Any, make: Make, dtype: torch.dtype, used: Callable[[], None], *sources: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.make, ctx.dtype, ctx.used, ctx.sources = make, dtype, used, sources
        ctx.versions = [None if source.is_inference() else source._version for source in sources]
        ctx.leaves = [source.detach().requires_grad_(source.requires_grad) for source in sources]
        # saved-tensor hooks, as set by checkpointing, are meant for the outer graph only
        inside = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
        with torch.enable_grad(), inside, without_autocast(sources[0].device):
            ctx.results = [result.to(dtype) for result in make(ctx.leaves)]
        return tuple(result.detach() for result in ctx.results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.used()
        for source, version in zip(ctx.sources, ctx.versions, strict=True):
            if version is not None:  # the hooks on the separate graph disable torch's own check
                require_version(source, version, "a factor")
        leaves, results = ctx.leaves, ctx.results
        twice = torch.is_grad_enabled()  # create_graph=True: double backward
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

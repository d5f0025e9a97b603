"""What is formed of the factors: once for all layers of a pass through the model, never kept after it."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.hooks import RemovableHandle

PLAIN = (Tensor, nn.Parameter)
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


class Passes:
    """The passes through a model that are in progress, at most one for each thread, and what was formed in them.

    What is formed of the factors is used within one pass, from the call of the model's root to its return, and never
    after it, so it does not matter how a factor is changed between two passes.
    """

    def __init__(self) -> None:
        self._open: dict[int, Forms] = {}

    def watch(self, model: nn.Module) -> list[RemovableHandle]:
        """Begin a pass whenever a model is called.

        Args:
            model: The root of the adapted layers.

        Returns:
            The hooks, to be removed.
        """
        return [
            model.register_forward_pre_hook(self._begin, prepend=True),
            model.register_forward_hook(self._end, always_call=True),
        ]

    @property
    def forms(self) -> Forms | None:
        """What was formed in this thread's pass so far; None outside of any pass."""
        return self._open.get(threading.get_ident())

    def _begin(self, *_: object) -> None:
        if not torch.compiler.is_compiling():
            self._open[threading.get_ident()] = {}

    def _end(self, *_: object) -> None:
        if not torch.compiler.is_compiling():
            self._open.pop(threading.get_ident(), None)

    def __reduce__(self) -> tuple[type[Passes], tuple[()]]:
        return Passes, ()  # a copy is in no pass


class Form(NamedTuple):
    """What was formed.

    Args:
        tracked: Whether gradients pass through it.
        results: The results, each with one tensor for each parameter of the kind, or one tensor for all.
    """

    tracked: bool
    results: tuple[tuple[Tensor, ...], ...]


class Formed:
    """Something formed of the factors: once in a pass for all parameters of a kind, or for one that is called alone.

    Args:
        passes: The passes through the model.
        together: What forms it for all parameters, in differentiable operations.
        alone: The same for one of them.
        stacked: For every result of `together`, whether its first dimension runs over the parameters.
    """

    def __init__(self, passes: Passes, together: Make, alone: Callable[[int], Make], stacked: Sequence[bool]) -> None:
        self._passes, self._together, self._alone, self._stacked = passes, together, alone, tuple(stacked)

    def __call__(self, at: int, sources: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Return one parameter's results.

        Args:
            at: Which parameter of the kind.
            sources: The cores of the whole tensor.
            dtype: The dtype of the results; they are computed in that of the sources.
        """
        forms = self._passes.forms
        if forms is None:
            return _formed(functools.partial(self._alone, at), sources, dtype)
        form, tracked = forms.get((self, dtype)), _tracked(sources)
        if form is None or form.tracked < tracked:
            results = _formed(self._together, sources, dtype)
            form = Form(tracked, tuple(r.unbind() if s else (r,) for r, s in zip(results, self._stacked, strict=True)))
            forms[self, dtype] = form
        return [one[at if len(one) > 1 else 0] for one in form.results]


Forms = dict[tuple[Formed, torch.dtype], Form]


def _tracked(sources: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(source.requires_grad for source in sources)


def _formed(make: Make, sources: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    if _tracked(sources):
        return list(_Form.apply(make, dtype, *sources))
    with torch.inference_mode(False), torch.no_grad(), without_autocast(sources[0].device):
        return [result.to(dtype) for result in make(sources)]


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


class _Form(torch.autograd.Function):
    """Forms something on a graph of its own, which saves nothing outside of it.

    Checkpointing computes a layer again outside of the pass, where it is formed for this layer alone: both ways have to
    save the same tensors.
    """

    @staticmethod
    def forward(ctx: Any, make: Make, dtype: torch.dtype, *sources: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.make, ctx.dtype, ctx.sources = make, dtype, sources
        ctx.versions = [None if source.is_inference() else source._version for source in sources]
        ctx.leaves = [source.detach().requires_grad_(source.requires_grad) for source in sources]
        # hooks on saved tensors, as checkpointing sets them, are for the graph outside
        inside = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
        with torch.enable_grad(), inside, without_autocast(sources[0].device):
            ctx.results = [result.to(dtype) for result in make(ctx.leaves)]
        return tuple(result.detach() for result in ctx.results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
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
        return None, None, *(next(found) if leaf.requires_grad else None for leaf in leaves)

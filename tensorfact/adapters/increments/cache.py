"""Tensors formed from the factors: once per forward pass for all layers, and never kept after it."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .passes import Forms, Passes
from .shared_gradients import SharedGradient, share

PLAIN = (Tensor, nn.Parameter)
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
    kind = device.type  # meta has no autocast; older releases of torch cannot compile torch.amp.is_autocast_available
    return torch.get_autocast_dtype(kind) if kind != "meta" and torch.is_autocast_enabled(kind) else None


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context in which operands keep their dtypes."""
    on = autocast_dtype(device) is not None
    return torch.autocast(device.type, enabled=False) if on else contextlib.nullcontext()


class FormedTensors(NamedTuple):
    """Tensors formed in one pass.

    Args:
        tracked: Whether gradients pass through the results.
        results: For each kind and result one tensor per parameter of the kind, or one tensor for all.
        whole: For each kind its results as they were formed; those of all parameters are stacked.
    """

    tracked: bool
    results: tuple[tuple[tuple[Tensor, ...], ...], ...]
    whole: tuple[tuple[Tensor, ...], ...]


class Formed:
    """Results formed from the factors: once per pass for all parameters of a tensor, or for one layer called alone.

    A layer is called alone if it runs outside a call of the root module, for example through `model.blocks[0](x)` or
    when checkpointing recomputes it in the backward pass.

    Args:
        passes: Forward passes of the model.
        together: Forms the results for all parameters, in differentiable operations; where a scale is passed, it takes
            one by name, and multiplies the last result by it.
        alone: Forms the results for one parameter of a kind, given by two indices, likewise.
        stacked: For each kind and result of `together`, whether its first dimension runs over parameters.
    """

    def __init__(
        self,
        passes: Passes,
        together: Callable[..., Sequence[Tensor]],
        alone: Callable[..., Sequence[Tensor]],
        stacked: Sequence[Sequence[bool]],
    ) -> None:
        self.passes, self._together, self._alone, self._stacked = passes, together, alone, tuple(map(tuple, stacked))

    def __call__(
        self, kind: int, at: int, sources: Sequence[Tensor], dtype: torch.dtype, scale: float = 1.0
    ) -> list[Tensor]:
        """Return the results of one parameter.

        Args:
            kind: Index of the parameter's kind.
            at: Index of the parameter in its kind.
            sources: The cores of the tensor.
            dtype: Dtype of the results; they are computed in the dtype of the sources.
            scale: Factor of the last result.
        """
        forms = self.passes.forms
        if forms is None:
            return _formed(functools.partial(self._alone, kind, at, **_scaling(scale)), sources, dtype)
        return [one[at if len(one) > 1 else 0] for one in self._form(forms, sources, dtype, scale).results[kind]]

    def whole(self, kind: int, sources: Sequence[Tensor], dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, ...]:
        """Return the results of all parameters of a kind in a pass; where they differ, the parameters are in front.

        Args:
            kind: Index of the kind.
            sources: The cores of the tensor.
            dtype: Dtype of the results.
            scale: Factor of the last result.
        """
        assert self.passes.forms is not None
        return self._form(self.passes.forms, sources, dtype, scale).whole[kind]

    def _form(self, forms: Forms, sources: Sequence[Tensor], dtype: torch.dtype, scale: float) -> FormedTensors:
        """Return what was formed in a pass, or form it now."""
        form, tracked = forms.get((self, dtype, scale)), _tracked(sources)
        assert form is None or isinstance(form, FormedTensors)
        if form is None or form.tracked < tracked:
            shared = [not stacked for own in self._stacked for stacked in own]
            following = iter(_formed(functools.partial(self._together, **_scaling(scale)), sources, dtype, shared))
            whole = tuple(tuple(itertools.islice(following, len(own))) for own in self._stacked)
            results = tuple(tuple(map(_each, *both)) for both in zip(whole, self._stacked, strict=True))
            form = forms[self, dtype, scale] = FormedTensors(tracked, results, whole)
        return form


def _scaling(scale: float) -> dict[str, float]:
    """Return the argument of what forms with a scale."""
    return {} if scale == 1 else {"scale": scale}


def _each(result: Tensor, stacked: bool) -> tuple[Tensor, ...]:
    """Return a result for each parameter, or the one that is of all."""
    return result.unbind() if stacked else (result,)


def _tracked(sources: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(source.requires_grad for source in sources)


def _formed(make: Make, sources: Sequence[Tensor], dtype: torch.dtype, shared: Sequence[bool] = ()) -> list[Tensor]:
    if _tracked(sources):
        sums: list[SharedGradient | None] = [None] * len(shared)
        results = list(_Form.apply(make, dtype, sums, *sources))
        for at in itertools.compress(range(len(results)), shared):
            sums[at] = share(results[at])
        return results
    with torch.inference_mode(False), torch.no_grad(), without_autocast(sources[0].device):
        return [result.to(dtype) for result in make(sources)]


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


class _Form(torch.autograd.Function):
    """Forms the results on a separate autograd graph, so that the outer graph saves none of its tensors.

    Checkpointing recomputes a layer outside the pass, where its results are formed for this layer alone. It requires
    that the recomputation saves the same tensors as the forward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, make: Make, dtype: torch.dtype, sums: list[SharedGradient | None], *sources: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.make, ctx.dtype, ctx.sums, ctx.sources = make, dtype, sums, sources
        ctx.versions = [None if source.is_inference() else source._version for source in sources]
        ctx.leaves = [source.detach().requires_grad_(source.requires_grad) for source in sources]
        # saved-tensor hooks, as set by checkpointing, are meant for the outer graph only
        inside = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
        with torch.enable_grad(), inside, without_autocast(sources[0].device):
            ctx.results = [result.to(dtype) for result in make(ctx.leaves)]
        outputs = tuple(result.detach() for result in ctx.results)
        # a result of frozen cores: layers need not keep what its gradient would be computed from
        frozen = (output for output, result in zip(outputs, ctx.results, strict=True) if not result.requires_grad)
        ctx.mark_non_differentiable(*frozen)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        for source, version in zip(ctx.sources, ctx.versions, strict=True):
            if version is not None:  # the hooks on the separate graph disable torch's own check
                require_version(source, version, "a factor")
        shared = itertools.chain(ctx.sums, itertools.repeat(None))
        gradients = tuple(g if s is None else s.taken(g) for g, s in zip(gradients, shared, strict=False))
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

"""The increment of one parameter in a bank: of the present task, or in a mixed batch of each sample's task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ...errors import AdaptError
from ...network import Core, Network
from ...network.order import TOKENS
from ...plan.indexing import as_index, spread, take
from ...plan.slices import taken
from ..factors import Factors
from ..increments.cache import Formed, autocast_dtype, composable
from ..increments.effective import EffectiveWeights, Owners
from ..increments.execution import NOMINAL_TOKENS
from ..increments.increment import Increment
from ..increments.passes import Passes
from ..increments.planned import Kind, token_class
from ..increments.products import Product
from .factors import TaskFactors
from .gathered import behind_tasks, gathered_for_samples
from .products import SAMPLE, MixedProduct

_NOMINAL_SAMPLES = 32
"""Number of samples for which compiled models are planned."""
_MOST_GATHERED = 1 << 24
"""The most entries of owned cores that are gathered for all layers at once: 64 MiB in fp32."""


class TaskIncrement(Increment):
    """The increment of one parameter for the present task, or for the tasks of a mixed batch.

    A mixed batch is one contraction in which the samples are a common leg of the input and of the owned cores: shared
    cores are applied to all samples at once.
    """

    forms = False
    """Whether the layer forms its weight when all samples have one task."""

    def __init__(
        self,
        factors: Factors,
        kind: Kind,
        place: tuple[int, int],
        parts: Formed,
        matrices: Formed,
        sums: EffectiveWeights,
        gathered: Formed,
        **options: Any,
    ) -> None:
        super().__init__(factors, kind, place, parts, matrices, sums, **options)
        self._gathered = gathered
        self._factors = cast("TaskFactors", self.factors)
        self._plans: dict[tuple[int, int], MixedProduct] = {}
        if len(self.view.rule.dims) == 2:  # a compiler traces no planning
            self._planned(_NOMINAL_SAMPLES, NOMINAL_TOKENS)

    @staticmethod
    def formed_for(kinds: Sequence[Kind], factors: Factors, passes: Passes, owners: Owners) -> list[tuple[Any, ...]]:
        """Return for each kind the caches that its increments share, as `Increment.formed_for` does."""
        assert isinstance(factors, TaskFactors)
        gathered = gathered_for_samples(kinds, factors, passes)
        return [(*own, gathered) for own in Increment.formed_for(kinds, factors, passes, owners)]

    def linear(self, product: Product, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        """Compute a linear layer with the increment added, as `Increment.linear` does."""
        choice = self._factors.choice
        choice.require_same()
        if choice.rows is None:
            if self.forms:
                return product(x, self.added_to(weight, scale, drop=True), bias)
            return super().linear(product, x, weight, bias, scale)
        casting = None if x.dtype == torch.float64 else autocast_dtype(x.device)  # autocast does not cast fp64
        x = x if casting is None else x.to(casting)
        return self._mixed(product(x, weight, bias), x, len(choice.rows), scale)

    def dense(self, *, drop: bool = False) -> Tensor:
        """Return the increment of the present task, as `Increment.dense` does."""
        self._refuse_mixed()
        return super().dense(drop=drop)

    def added_to(self, base: Tensor, scale: float, *, drop: bool = False) -> Tensor:
        """Return base + scale x increment of the present task, as `Increment.added_to` does."""
        self._factors.choice.require_same()
        self._refuse_mixed()
        return super().added_to(base, scale, drop=drop)

    def _refuse_mixed(self) -> None:
        if self._factors.choice.rows is not None:
            raise AdaptError(
                f"{self.view.parameter!r} has no single value in a mixed batch",
                cause="the model reads the weight, and every sample has a task of its own",
                fix="bank.map(x, tasks), or call the model itself inside `with bank.batch(tasks):`",
            )

    def _mixed(self, y: Tensor, x: Tensor, samples: int, scale: float) -> Tensor:
        """Return the layer's output with the increments of the tasks of a mixed batch added."""
        view, alone = self.view, not torch.compiler.is_compiling() and self._runs_alone()
        if x.shape[0] % samples or (alone and x.shape[0] != samples):
            raise AdaptError(
                f"the input of the layer of {view.parameter!r} does not have the samples in front",
                expected=f"{samples} rows" if alone else f"a multiple of {samples} rows",
                got=f"shape {tuple(x.shape)}",
                fix="call the whole model, with one sample for each task" if alone else "bank.map(x, tasks)",
            )
        kept, sizes = view.kept, view.sizes
        z = x.reshape(samples, -1, *(sizes[axis] for axis in view.inputs))
        for dim, axis in enumerate(view.inputs, 2):
            z = take(z, dim, as_index(kept[axis])) if len(kept[axis]) < sizes[axis] else z
        parts = self._parts_of_samples(x)
        compiling = torch.compiler.is_compiling()
        sizes_of_batch = (_NOMINAL_SAMPLES, NOMINAL_TOKENS) if compiling else (samples, token_class(z.shape[1]))
        planned = self._planned(*sizes_of_batch)
        if y.dtype == x.dtype and all(len(kept[axis]) == sizes[axis] for axis in view.outputs):
            return planned.added(y, [z, *parts], scale)
        z = planned.contraction([z, *parts])
        for dim, axis in enumerate(view.outputs, 2):
            z = spread(z, dim, kept[axis], sizes[axis])
        return torch.add(y, z.reshape(y.shape).to(y.dtype), alpha=scale)

    def _runs_alone(self) -> bool:
        """Return whether the layer runs outside of a pass of the whole model, which checks the number of samples."""
        return self._gathered.passes.forms is None and torch._C._current_graph_task_id() == -1

    def _parts_of_samples(self, x: Tensor) -> list[Tensor]:
        """Return this parameter's slices of the cores in the dtype of x, those of owned cores once for each sample."""
        rows, stored = self._factors.choice.rows, self._factors.stored()
        assert rows is not None
        owned = sum(core[0].numel() for core in self._factors.owned_parameters().values())
        if self.drops or self._factors.alone.rows or composable(x, *stored) or len(rows) * owned > _MOST_GATHERED:
            return [part.to(x.dtype) for part in self._parts_alone()]
        return self._gathered(*self.place, [*stored, rows.to(x.device)], x.dtype)

    def _parts_alone(self) -> list[Tensor]:
        """Return the slices of this parameter alone, in differentiable operations."""
        if self.drops_entries:
            raise AdaptError(
                "dropout of the increment's entries has no product for a mixed batch",
                fix="bank.map(x, tasks), or a dropout of the factors: dropout=0.1",
            )
        parts, alone, masks = [], self._factors.alone, self.masks(True)
        stored, picks, shapes = self._factors.named_cores(), self.kind.picks[self.at], self.kind.shapes
        kept = masks or [None] * len(stored)
        for (name, core), mask, own, shape in zip(stored.items(), kept, picks, shapes, strict=True):
            core = core if mask is None else core * mask
            if name in self._factors.owned:
                row = alone.rows[name] if name in alone.rows else core[0]
                row = row if mask is None or name not in alone.rows else row * mask
                rows = alone.each(name, taken(core, behind_tasks(own)), taken(row, own))
                parts.append(rows.reshape(rows.shape[0], *shape))
            else:
                parts.append(taken(core, own).reshape(shape))
        return parts

    def _planned(self, samples: int, tokens: int) -> MixedProduct:
        if (samples, tokens) not in self._plans:
            self._plans[samples, tokens] = self._plan(samples, tokens)
        return self._plans[samples, tokens]

    def _plan(self, samples: int, tokens: int) -> MixedProduct:
        network, view = self.kind.network, self.view
        cores = [
            Core(core.name, (SAMPLE, *core.legs)) if core.name in self._factors.owned else Core(core.name, core.legs)
            for core in network.cores
        ]
        x = Core("x", (SAMPLE, TOKENS, *view.inputs))
        sizes = {**network.sizes, SAMPLE: samples, TOKENS: tokens}
        network = Network((x, *cores), (SAMPLE, TOKENS, *view.outputs), sizes)
        return MixedProduct.of(network, self.kind.optimize, self.kind.on)

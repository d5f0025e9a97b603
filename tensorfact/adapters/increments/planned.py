"""Kinds: parameters that share one contraction plan; planning and forming their increments together."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...network import Contraction, Core, Cost, Machine, Mode, Network, cuts, plan_contraction, with_input
from ...network.cost import product
from ...network.order import Optimize
from ...plan import View
from ...plan.indexing import take
from ...plan.slices import own_parts, picks_of, restricted, taken
from .cache import Formed, Passes
from .contracted_input import ContractedInput
from .execution import NOMINAL_TOKENS, Execution
from .halves import Halves, Piece
from .narrow import rectangles_of
from .narrow_products import NarrowProducts

VIEWS = "(parameters)"
"""The leg over the parameters of a kind; no mode or bond has this name."""


class Kind:
    """Parameters that share one contraction plan and differ only in which slice of each core they use.

    It is a plan without numbers, and shared by copies of a model.

    Args:
        network: The tensor's network.
        modes: The tensor's modes.
        views: The parameters' places in the tensor.
        optimize: The name of an opt_einsum method, or an optimiser object.
        on: The machine to predict times for.
    """

    def __init__(
        self, network: Network, modes: Sequence[Mode], views: Sequence[View], optimize: Optimize, on: Machine
    ) -> None:
        self.views, self.view, self.optimize, self.on = tuple(views), views[0], optimize, on
        self.network = restricted(network, modes, self.view)
        self.picks = tuple(picks_of(network, modes, view) for view in views)
        self.shapes = tuple(self.network.shapes().values())
        self.forming = plan_contraction(self.network, optimize, on)
        self.halves = self._halved() if len(self.view.rule.dims) == 2 else None
        self.execution: Execution = NarrowProducts(self.halves) if self.halves else ContractedInput()
        self._applying: dict[int, Contraction] = {}
        self._positions: dict[tuple[int, torch.device], Tensor] = {}

    def __deepcopy__(self, memo: object) -> Kind:
        return self

    def applying(self, tokens: int) -> Contraction:
        """Return the contraction of an input with the cores, planned once per power of two.

        Args:
            tokens: Number of tokens; rounded up to a power of two.
        """
        rounded = token_class(tokens)
        if rounded not in self._applying:
            network = with_input(self.network, self.view.inputs, self.view.outputs, rounded)
            self._applying[rounded] = plan_contraction(network, self.optimize, self.on)
        return self._applying[rounded]

    # ---------------------------------------------------------------------------------------------------------- costs

    def cost_applied(self, tokens: int) -> Cost:
        """Return the cost that one parameter adds to a training step on the activation route.

        Args:
            tokens: Number of tokens.
        """
        if self.halves is not None:
            share = (number // len(self.views) for number in dataclasses.astuple(self.halves.making))
            return self.halves.cut.training(tokens) + Cost(*share)
        size = tokens * self.view.shape[self.view.transposed]
        return self.applying(tokens).training + Cost(size, 3 * size, 0, 1)

    def cost_formed(self, tokens: int) -> Cost:
        """Return the cost that one parameter adds to a training step on the weight route.

        Args:
            tokens: Number of tokens; this route also computes the dense gradient of the weight.
        """
        size, rows = math.prod(self.view.shape), self.view.shape[0]
        return self.forming.training + Cost(size, 3 * size, size, 1) + product(rows, tokens, size // rows)

    @property
    def apply_is_faster(self) -> bool:
        """Whether a training step is predicted to be no slower on the activation route than on the weight route."""
        applied, formed = self.cost_applied(NOMINAL_TOKENS), self.cost_formed(NOMINAL_TOKENS)
        return self.on.seconds(applied) <= self.on.seconds(formed)

    # ---------------------------------------------------------------------------------------------------------- plans

    def _halved(self) -> Halves | None:
        """Choose the cut with the fastest predicted products; among equals, the one whose matrices form fastest.

        Cuts that take more FLOPs per token than the dense increment are rejected: their bond is not narrow.
        """
        found: list[Halves] = []
        dense = math.prod(len(positions) for positions in self.view.kept.values())
        for cut in cuts(self.network, self.view.inputs, self.view.outputs):
            down = rectangles_of(cut, self.view.inputs, self.view.sizes, self.view.kept, inputs=True)
            up = rectangles_of(cut, self.view.outputs, self.view.sizes, self.view.kept, inputs=False)
            if down is not None and up is not None and cut.forward(1).flops <= 2 * dense:
                found.append(Halves(cut, down, up, (self._matrix(cut.down, cut.bond), self._matrix(cut.up, cut.bond))))

        def seconds(halves: Halves) -> tuple[float, float]:
            return self.on.seconds(halves.cut.training(NOMINAL_TOKENS)), self.on.seconds(halves.making)

        return min(found, key=seconds) if found else None

    def _matrix(self, half: Network, bond: int) -> Piece:
        return self._piece(half, (bond, math.prod(half.shape(half.output)) // bond))

    def _piece(self, part: Network, shape: tuple[int, ...]) -> Piece:
        """Plan the contraction of some cores; `part` is their network for one parameter."""
        names = [core.name for core in self.network.cores]
        members = tuple(names.index(core.name) for core in part.cores)
        alone = plan_contraction(part, self.optimize, self.on)
        if not any(self.picks[0][at] for at in members):
            return Piece(members, alone, alone, False, shape)
        cores = tuple(
            Core(core.name, (VIEWS, *core.legs) if self.picks[0][at] else core.legs)
            for at, core in zip(members, part.cores, strict=True)
        )
        stack = Network(cores, (VIEWS, *part.output), {**part.sizes, VIEWS: len(self.views)})
        return Piece(members, alone, plan_contraction(stack, self.optimize, self.on), True, shape)

    # -------------------------------------------------------------------------------------------------------- forming

    def own(self, at: int, cores: Sequence[Tensor]) -> list[Tensor]:
        """Return one parameter's slices of the cores.

        Args:
            at: Position of the parameter in the kind.
            cores: The full cores.
        """
        return own_parts(cores, self.picks[at], self.shapes)

    def formed_parts(self, passes: Passes) -> Formed:
        """Return what forms every parameter's parts of the cores, in the passes through a model."""
        sizes = self.network.sizes
        alone = [Network((c,), c.legs, {leg: sizes[leg] for leg in c.legs}) for c in self.network.cores]
        return self._formed([self._piece(one, one.shape(one.output)) for one in alone], passes)

    def formed_matrices(self, passes: Passes) -> Formed:
        """Return what forms the two matrices of every parameter, in the passes through a model."""
        return self._formed(self.halves.pieces if self.halves else (), passes)

    def _formed(self, pieces: Sequence[Piece], passes: Passes) -> Formed:
        stacked = [piece.stacked for piece in pieces]
        return Formed(
            passes, functools.partial(self._together, pieces), functools.partial(self._alone, pieces), stacked
        )

    def _together(self, pieces: Sequence[Piece], cores: Sequence[Tensor], scale: float = 1.0) -> list[Tensor]:
        """Form pieces for all parameters at once, the last one times a scale."""
        gathered = _scaled([self._gathered(at, core) for at, core in enumerate(_wide(cores))], pieces[-1], scale)
        results = []
        for piece in pieces:
            stack = (len(self.views),) if piece.stacked else ()
            result = piece.together([gathered[at] for at in piece.members])
            results.append(result.reshape(*stack, *piece.shape).contiguous())
        return apart(results, cores)

    def _alone(self, pieces: Sequence[Piece], at: int, cores: Sequence[Tensor], scale: float = 1.0) -> list[Tensor]:
        """Form pieces for one parameter, the last one times a scale."""
        own = _scaled(self.own(at, _wide(cores)), pieces[-1], scale)
        results = [p.alone([own[k] for k in p.members]).reshape(p.shape).contiguous() for p in pieces]
        return apart(results, cores)

    def _gathered(self, at: int, core: Tensor) -> Tensor:
        """Return all parameters' slices of a core (parameters, *legs), or the core itself if it is not sliced."""
        picks = [own[at] for own in self.picks]
        if not picks[0]:
            return core.reshape(self.shapes[at])
        if len(picks[0]) > 1:
            return torch.stack([taken(core, own).reshape(self.shapes[at]) for own in picks])
        dim = picks[0][0][0]
        if (at, core.device) not in self._positions:
            each = torch.arange(core.shape[dim], device="cpu")
            positions = torch.cat([take(each, 0, index) for ((_, index),) in picks])
            self._positions[at, core.device] = positions.to(core.device)
        chosen = core.index_select(dim, self._positions[at, core.device])
        split = chosen.reshape(*core.shape[:dim], len(picks), -1, *core.shape[dim + 1 :])
        return split.movedim(dim, 0).reshape(len(picks), *self.shapes[at])


def _wide(cores: Sequence[Tensor]) -> list[Tensor]:
    """Return cores in at least fp32."""
    return [core.to(torch.promote_types(core.dtype, torch.float32)) for core in cores]


def _scaled(cores: list[Tensor], piece: Piece, scale: float) -> list[Tensor]:
    """Multiply the smallest core of a piece by a scale, which multiplies the piece."""
    if scale == 1:
        return cores
    least = min(piece.members, key=lambda at: cores[at].numel())
    return [core * scale if at == least else core for at, core in enumerate(cores)]


def apart(results: Sequence[Tensor], cores: Sequence[Tensor]) -> list[Tensor]:
    """Return results in memory of their own: a core that is taken whole would be returned itself.

    Args:
        results: What was formed from the cores.
        cores: The cores.
    """
    return [r.clone() if any(r.data_ptr() == core.data_ptr() for core in cores) else r for r in results]


def token_class(tokens: int) -> int:
    """Round a number of tokens up to a power of two.

    Examples:
        >>> token_class(197)
        256
    """
    return 1 << max(tokens - 1, 0).bit_length()

"""Kinds: parameters that share one contraction plan; planning and forming their increments together."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

from torch import Tensor

from ...network import Contraction, Core, Cost, Cut, Machine, Mode, Network, cuts, plan_contraction, with_input
from ...network.cost import product
from ...network.order import Optimize
from ...plan import View
from ...plan.slices import own_parts, picks_of, restricted
from ..options import Route
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
        self.halves = self._halved() if len(self.view.rule.dims) == 2 or self.convolved else None
        self.execution: Execution = NarrowProducts(self.halves) if self.halves else ContractedInput()
        self._applying: dict[int, Contraction] = {}
        self._forms: dict[tuple[int, bool], bool] = {}

    def __deepcopy__(self, memo: object) -> Kind:
        return self

    @property
    def convolved(self) -> bool:
        """Whether the parameters have the dimensions of kernels, (outputs, inputs, *kernel)."""
        outputs, *inputs = self.view.rule.dims
        return len(inputs) > 1 and (outputs, tuple(itertools.chain(*inputs))) == (self.view.outputs, self.view.inputs)

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

    def cost(self, route: Route, tokens: int) -> Cost:
        """Return the cost that one parameter adds to a training step, beyond that of the base layer.

        Args:
            route: `activation`, `formed` or `weight`; the last one also computes the dense gradient of the weight.
            tokens: Number of tokens.
        """
        size, rows = math.prod(self.view.shape), self.view.shape[0]
        if route == "weight":
            return self.forming.training + Cost(size, 3 * size, size, 1) + product(rows, tokens, size // rows)
        if self.halves is None:
            size = tokens * self.view.shape[self.view.transposed]
            return self.applying(tokens).training + Cost(size, 3 * size, 0, 1)
        cut, together = self.halves.cut, self.halves.making
        at_once = self.at_once(self.on.device)
        own = cut.formed(tokens, together=at_once) if route == "formed" else cut.training(tokens) + self._adding(tokens)
        if route == "formed" and at_once:
            together += Cost(launches=2)  # a batched product, and the sums
        return own + Cost(*(number // len(self.views) for number in dataclasses.astuple(together)))

    def forms(self, route: Route, tokens: int, *, recorded: bool = True) -> bool:
        """Return whether a linear layer multiplies by its effective weight, instead of adding two narrow products.

        `auto` takes what is predicted to be faster, on a CPU; on a GPU, where it is not measured, the narrow products.

        Args:
            route: The route that was asked for.
            tokens: Number of tokens in the layer's call; rounded up to a power of two.
            recorded: Whether the call is part of a training step.
        """
        if route not in ("auto", "formed") or self.halves is None or not self.halves.multiplies:
            return False
        if route == "formed" or self.on.device != "cpu":
            return route == "formed"
        key = token_class(tokens), recorded
        if key not in self._forms:
            self._forms[key] = self._forming_is_faster(self.halves.cut, *key)
        return self._forms[key]

    def _forming_is_faster(self, cut: Cut, tokens: int, recorded: bool) -> bool:
        if recorded:
            narrow, formed = self.cost("activation", tokens), self.cost("formed", tokens)
        else:
            narrow, formed = cut.forward(tokens) + self._adding(tokens, to_input=False), cut.forming
        return self.on.seconds(formed) < self.on.seconds(narrow)

    def _adding(self, tokens: int, *, to_input: bool = True) -> Cost:
        """Return the cost of adding narrow convolutions to what a layer computes, which they cannot do by themselves.

        Around each, the library reorders its operands, which counts as three launches.
        """
        if not self.convolved:
            return Cost()
        outputs, inputs, *_ = self.view.shape
        return Cost(moved=3 * tokens * (outputs + to_input * inputs), launches=4 * (1 + to_input))

    def at_once(self, device: str) -> bool:
        """Return whether the effective weights of all layers are formed at once, in a pass.

        A GPU launches fewer kernels then. On a CPU each layer forms its own, which stays in the cache of the processor.

        Args:
            device: The type of the device.
        """
        return device != "cpu"

    @property
    def apply_is_faster(self) -> bool:
        """Whether a training step is predicted to be no slower in the layer's call than on the weight route."""
        called: Route = "formed" if self.forms("auto", NOMINAL_TOKENS) else "activation"
        routes: tuple[Route, ...] = (called, "weight")
        own, read = (self.on.seconds(self.cost(route, NOMINAL_TOKENS)) for route in routes)
        return own <= read

    # ---------------------------------------------------------------------------------------------------------- plans

    def _halved(self) -> Halves | None:
        """Choose the cut with the fastest predicted products.

        Among equals, it is the one whose matrices form fastest, and then the one that keeps the least for the backward
        pass. Cuts that take more FLOPs per token than the dense increment are rejected: their bond is not narrow.
        """
        found: list[Halves] = []
        dense = math.prod(len(positions) for positions in self.view.kept.values())
        for cut in cuts(self.network, self.view.inputs, self.view.outputs):
            down = rectangles_of(cut, self.view.inputs, self.view.sizes, self.view.kept, inputs=True)
            up = rectangles_of(cut, self.view.outputs, self.view.sizes, self.view.kept, inputs=False)
            if down is not None and up is not None and cut.forward(1).flops <= 2 * dense:
                pieces = self._matrix(cut.down, cut.bond), self._matrix(cut.up, cut.bond)
                found.append(Halves(cut, down, up, pieces))

        def rank(halves: Halves) -> tuple[float, float, int]:
            training = halves.cut.training(NOMINAL_TOKENS)
            return self.on.seconds(training), self.on.seconds(halves.making), training.kept

        found = [halves for halves in found if halves.whole or not self.convolved]
        return min(found, key=rank) if found else None

    def _matrix(self, half: Network, bond: int) -> Piece:
        return self.piece(half, (bond, math.prod(half.shape(half.output)) // bond))

    def piece(self, part: Network, shape: tuple[int, ...]) -> Piece:
        """Plan the contraction of some cores.

        Args:
            part: Their network for one parameter.
            shape: Shape of the result for one parameter.
        """
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


def token_class(tokens: int) -> int:
    """Round a number of tokens up to a power of two.

    Examples:
        >>> token_class(197)
        256
    """
    return 1 << max(tokens - 1, 0).bit_length()

"""NOAH's search: train all subnets at once, then evolve the one that validates best within a number of parameters."""

from __future__ import annotations

import copy
import dataclasses
import random

from torch import nn

from ...common.checks import whole_number
from ...common.progress import Progress, silent
from ...errors import AdaptError, TrainingError
from ..data import Splits
from ..training import evaluate, fit
from .added import blocks_of
from .noah import KINDS, RELEASED, Space, Subnet, Supernet
from .prompts import sequence_of

BUDGET = 361_000
"""NOAH's published mean size on ViT-B."""

KEPT, MUTATED = 0.2, 0.2
"""The share of a population that has offspring, and the chance of every size to be drawn again in a mutation."""


def search_subnet(
    model: nn.Module,
    splits: Splits,
    *,
    space: Space = RELEASED,
    budget: int = BUDGET,
    epochs: int = 500,
    batch_size: int = 64,
    lr: float = 5e-4,
    weight_decay: float = 1e-4,
    population: int = 50,
    generations: int = 15,
    seed: int = 0,
    progress: Progress = silent,
) -> Subnet:
    """Find a subnet of NOAH's for a task; attached to a fresh model, it is then trained like any other method.

    A copy of the model trains with a `Supernet`, a subnet drawn for every step. Then subnets of it, without further
    training, compete by accuracy on the validation split: of everything seen so far the best have offspring, one half
    mutants of one parent, one half with every kind of size from one of two parents. What is above the budget shrinks, a
    size at a time, until it fits. The other defaults are those of the released scripts for VTAB-1K.

    Args:
        model: A ViT of timm's with a head for the task's classes; it is not changed.
        splits: The task; its test split is not read.
        space: The sizes to choose from.
        budget: The most numbers a subnet may have, by default the published mean size on ViT-B.
        epochs: Passes over the training split, for the supernet.
        batch_size: Batch size: samples per step.
        lr: Peak learning rate.
        weight_decay: AdamW's weight decay.
        population: How many subnets compete in a generation.
        generations: How many generations there are.
        seed: Decides everything random.
        progress: Called after each epoch and each generation.

    Returns:
        The best subnet; of equally good ones the smallest.

    Raises:
        AdaptError: The model is no ViT of timm's, or no subnet is within the budget.
        TrainingError: A number is out of range, or the loss is not finite.
    """
    check_search(model, space=space, budget=budget, population=population, generations=generations)
    trained = copy.deepcopy(model)
    supernet = Supernet(trained, space, seed)
    evolution = _Evolution(space, len(supernet), sequence_of(model)[1], budget, random.Random(seed))
    fit(
        trained,
        splits.train,
        splits.val,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        seed=seed,
        progress=progress,
    )
    accuracy: dict[Subnet, float] = {}
    ranked: list[Subnet] = []
    for generation in range(generations):
        competing = evolution.offspring(ranked[: max(1, round(KEPT * population))], population)
        for subnet in competing:
            if subnet not in accuracy:
                supernet.subnet = subnet
                accuracy[subnet] = evaluate(trained, splits.val)[0]
        ranked = sorted(accuracy, key=lambda subnet: (-accuracy[subnet], evolution.size(subnet)))
        progress("searching", generation + 1, generations)
    return ranked[0]


def check_search(
    model: nn.Module,
    *,
    space: Space = RELEASED,
    budget: int = BUDGET,
    population: int = 50,
    generations: int = 15,
    **training: object,
) -> None:
    """Refuse what `search_subnet` cannot do, before anything trains; the arguments are its own.

    Raises:
        AdaptError: The model is no ViT of timm's, or no subnet is within the budget.
        TrainingError: A number is out of range.
    """
    for name, value in (("population", population), ("generations", generations), ("budget", budget)):
        whole_number(value, f"search_subnet: {name}", TrainingError, example=50)
    _, width = sequence_of(model)
    least = space.smallest(len(blocks_of(model, "mlp", "attn", "norm1"))).num_parameters(width)
    if least > budget:
        raise AdaptError(
            "search_subnet: budget",
            expected=f"at least {least:,}, the smallest subnet",
            got=f"{budget:,}",
            fix="a larger budget",
        )


@dataclasses.dataclass(frozen=True)
class _Evolution:
    """How subnets come of subnets, within a budget."""

    space: Space
    depth: int
    width: int
    budget: int
    chance: random.Random

    def size(self, subnet: Subnet) -> int:
        return subnet.num_parameters(self.width)

    def offspring(self, parents: list[Subnet], count: int) -> list[Subnet]:
        """Return mutants and crossings of parents, or without parents subnets drawn at random."""
        made = []
        for index in range(count):
            if not parents:
                child = self.space.draw(self.depth, self.chance)
            elif index % 2:
                child = self._crossed(*self.chance.choices(parents, k=2))
            else:
                child = self._mutated(self.chance.choice(parents))
            made.append(self._shrunk(child))
        return made

    def _mutated(self, parent: Subnet) -> Subnet:
        fresh = self.space.draw(self.depth, self.chance)
        sizes = {}
        for kind in KINDS:
            pairs = zip(getattr(parent, kind), getattr(fresh, kind), strict=True)
            sizes[kind] = tuple(new if self.chance.random() < MUTATED else old for old, new in pairs)
        return Subnet(**sizes)

    def _crossed(self, *parents: Subnet) -> Subnet:
        return Subnet(**{kind: getattr(self.chance.choice(parents), kind) for kind in KINDS})

    def _shrunk(self, subnet: Subnet) -> Subnet:
        while self.size(subnet) > self.budget:
            sizes = {kind: list(getattr(subnet, kind)) for kind in KINDS}
            smaller = {kind: sorted(getattr(self.space, kind)) for kind in KINDS}
            above = [(k, at) for k in KINDS for at, size in enumerate(sizes[k]) if size > smaller[k][0]]
            kind, at = self.chance.choice(above)
            sizes[kind][at] = max(size for size in smaller[kind] if size < sizes[kind][at])
            subnet = Subnet(**{each: tuple(found) for each, found in sizes.items()})
        return subnet

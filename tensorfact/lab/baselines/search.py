"""NOAH's search: train all subnets at once, then find the best one within a parameter budget by evolution."""

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
"""NOAH's published mean number of parameters on ViT-B."""

KEPT, MUTATED = 0.2, 0.2
"""Fraction of the population that become parents, and probability that a mutation redraws a size."""


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
    """Find a NOAH subnet for a task; attach it to a fresh model to train it like any other method.

    First, a copy of the model trains with a `Supernet`, which draws a subnet for every step. Then an evolutionary
    search, without further training, ranks subnets by validation accuracy: in each generation the best subnets so far
    are the parents; half of the offspring mutate one parent, half take each kind of size from one of two parents. A
    subnet above the budget shrinks, one size at a time, until it fits. The other defaults are those of the released
    scripts for VTAB-1K.

    Args:
        model: A timm ViT with a head for the task's classes; it is not changed.
        splits: Data of the task; the test split is not used.
        space: Sizes to choose from.
        budget: Maximum number of parameters of a subnet; default: the published mean on ViT-B.
        epochs: Number of passes over the training split, for the supernet.
        batch_size: Batch size (samples per step).
        lr: Peak learning rate.
        weight_decay: AdamW's weight decay.
        population: Number of subnets per generation.
        generations: Number of generations.
        seed: Seed of the supernet's training and of the search.
        progress: Called after each epoch and each generation.

    Returns:
        The subnet with the best validation accuracy; among equals, the smallest.

    Raises:
        AdaptError: The model is not a timm ViT, or no subnet is within the budget.
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
                accuracy[subnet] = evaluate(trained, splits.val).accuracy
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
    """Check the arguments of `search_subnet`, before anything trains.

    Raises:
        AdaptError: The model is not a timm ViT, or no subnet is within the budget.
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
            fix=f"budget={least}",
        )


@dataclasses.dataclass(frozen=True)
class _Evolution:
    """Mutation and crossover of subnets within a budget."""

    space: Space
    depth: int
    width: int
    budget: int
    chance: random.Random

    def size(self, subnet: Subnet) -> int:
        return subnet.num_parameters(self.width)

    def offspring(self, parents: list[Subnet], count: int) -> list[Subnet]:
        """Return mutations and crossovers of parents; without parents, random subnets."""
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

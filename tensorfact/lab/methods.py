"""Methods by name: baselines, published recipes, and formats on a model's own plan."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from ..adapters import Adapter
from ..errors import SweepError, nearest
from ..formats import available_formats, parse_format
from ..formats.options import read_options
from ..plan import plan_for
from ..recipes import RECIPES, Recipe
from .baselines import BASELINES, BUDGET, Method, check_search, search_subnet
from .data import Splits

T = TypeVar("T")

SEARCH = "noah"
"""The method that is searched for before it is trained."""


@dataclasses.dataclass(frozen=True)
class Adapting:
    """The method of a row that trains an adapter.

    Args:
        label: The row's name.
        recipe: From a model to the plan, the format or formats, and other options of `adapt`.
        options: Options of `adapt` that take precedence.
    """

    label: str
    recipe: Callable[[nn.Module], Recipe]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def attach(self, model: nn.Module, seed: int) -> Adapter:
        """Adapt the model."""
        return self.recipe(model).adapt(model, seed=seed, **self.options)


def method_of(text: str, *, scale: float | None = None, dropout: float = 0.0) -> Method:
    """Return a method as it is written in a run's spec.

    Args:
        text: A name and its options. A baseline: `bitfit`, `vpt-deep:length=10`; a recipe: `lora:rank=8`,
            `fact-tt:rank=16`; or a format, on the model's own plan: `cp:rank=8`.
        scale: What multiplies an adapter's increments; None for the method's own.
        dropout: An adapter's dropout.

    Raises:
        SweepError: An unknown name or option, or a scale for a baseline.
        FormatError: A format's option is wrong.

    Examples:
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> method_of("fact-tt:rank=16").attach(model, seed=0).num_parameters
        21504
    """
    name, options = read_method(text)
    adapting = {**({} if scale is None else {"scale": scale}), **({"dropout": dropout} if dropout else {})}
    if name in BASELINES:
        if scale is not None:
            raise SweepError(f"method {text!r} takes no scale", got=f"{scale:g}", fix="leave the scale out")
        return _checked(text, lambda: BASELINES[name](**options))
    recipe = RECIPES.get(name.replace("-", "_"))
    if recipe is not None:
        return Adapting(text, lambda model: _checked(text, lambda: recipe(model, **options)), adapting)
    format = parse_format(text)
    return Adapting(text, lambda model: Recipe(plan_for(model), format), adapting)


def search_of(text: str) -> Callable[..., str] | None:
    """Return, of a method that has to be searched for, the search; of any other, None.

    Args:
        text: As in `method_of`, or `noah:budget=361000`.

    Returns:
        From a model with its new head, `Splits` and the arguments `seed`, `epochs`, `batch_size`, `lr`,
        `weight_decay` and `progress` to the method that was found, as text.

    Raises:
        SweepError: An unknown name, or options that cannot be read.
    """
    name, options = read_method(text)
    if name != SEARCH:
        return None

    def search(model: nn.Module, splits: Splits, **training: Any) -> str:
        found = dataclasses.asdict(_checked(text, lambda: search_subnet(model, splits, **{**training, **options})))
        return f"noah-subnet:{','.join(f'{key}={value}' for key, value in found.items())}".replace(" ", "")

    return search


def takes_scale(text: str) -> bool:
    """Return whether a method is an adapter, whose increments a scale multiplies.

    Args:
        text: As in `method_of`.

    Raises:
        SweepError: An unknown name, or options that cannot be read.
    """
    return read_method(text)[0] not in (*BASELINES, SEARCH)


def num_parameters(text: str, model: nn.Module, *, scale: float | None = None, dropout: float = 0.0) -> int:
    """Return how many numbers a method trains, the head apart; of one that is searched for, how many at most.

    Args:
        text: As in `method_of`.
        model: A model, of which shapes are enough; it is left as it was.
        scale: As in `method_of`.
        dropout: As in `method_of`.

    Raises:
        TensorfactError: The method is unknown, or the model cannot take it.
    """
    name, options = read_method(text)
    if name == SEARCH:
        _checked(text, lambda: inspect.signature(search_subnet).bind(None, None, **options))
        check_search(model, **options)
        return int(options.get("budget", BUDGET))
    trained = method_of(text, scale=scale, dropout=dropout).attach(model, seed=0)
    trained.remove()
    return trained.num_parameters


def read_method(text: str) -> tuple[str, dict[str, Any]]:
    """Return a method's name and, for all but formats, its options.

    Args:
        text: As in `method_of`.

    Raises:
        SweepError: An unknown name, or options that cannot be read.

    Examples:
        >>> read_method("Fact_TT:rank=16")
        ('fact-tt', {'rank': 16})
    """
    written, _, rest = text.partition(":")
    name = written.strip().lower().replace("_", "-")
    own = [*BASELINES, SEARCH, *(recipe.replace("_", "-") for recipe in RECIPES)]
    if name not in own and name not in available_formats():
        known = [*own, *available_formats()]
        raise SweepError(
            f"unknown method {text!r}",
            expected=f"one of {', '.join(known)}",
            got=f"{name!r}{nearest(name, known)}",
            fix="write NAME:option=value, such as lora:rank=8",
        )
    try:
        return name, read_options(rest) if name in own else {}
    except ValueError as error:
        raise SweepError(f"method {text!r}", expected="NAME:option=value,...", got=text, fix="lora:rank=8") from error


def _checked(text: str, make: Callable[[], T]) -> T:
    """Make a method; an option it does not know is said to be one."""
    try:
        return make()
    except TypeError as error:
        raise SweepError(f"method {text!r}", got=str(error), cause="an option that it does not have") from error

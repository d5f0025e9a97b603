"""Methods by name: baselines, published recipes, and formats with the default plan of a model."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from ..adapters import Adapter
from ..common.aliases import Options
from ..errors import SweepError, nearest
from ..formats import available_formats, parse_format
from ..formats.options import read_options
from ..plan import plan_for
from ..recipes import RECIPES, Recipe
from .baselines import BASELINES, BUDGET, Method, check_search, search_subnet
from .data import Splits

T = TypeVar("T")

SEARCH = "noah"
"""Name of the method whose architecture is searched before it is trained."""


@dataclasses.dataclass(frozen=True)
class Adapting:
    """A method that attaches an adapter to the model.

    Args:
        label: Name of the row.
        recipe: Function from a model to a recipe: plan, format or formats, and options of `adapt`.
        options: Options of `adapt`; they take precedence over those of the recipe.
    """

    label: str
    recipe: Callable[[nn.Module], Recipe]
    options: Options = dataclasses.field(default_factory=dict)

    def attach(self, model: nn.Module, seed: int) -> Adapter:
        """Attach the adapter to the model, in place."""
        return self.recipe(model).adapt(model, seed=seed, **self.options)


def method_of(text: str, *, scale: float | str | None = None, dropout: float = 0.0) -> Method:
    """Parse a method, written as in the spec of a run.

    Args:
        text: Name and options of a baseline (`bitfit`, `vpt-deep:length=10`), of a recipe (`lora:rank=8`,
            `fact-tt:rank=16`), or of a format (`cp:rank=8`), which uses the default plan of the model.
        scale: Scale s of an adapter's update W + s dW, or "auto"; None: the default of the method.
        dropout: Dropout probability of an adapter.

    Raises:
        SweepError: Unknown name or option, or a scale for a baseline.
        FormatError: Invalid options of a format.

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
            raise SweepError(f"method {text!r} has no scale", got=f"scale={scale}", fix="scale=None")
        return _checked(text, lambda: BASELINES[name](**options))
    recipe = RECIPES.get(name.replace("-", "_"))
    if recipe is not None:
        return Adapting(text, lambda model: _checked(text, lambda: recipe(model, **options)), adapting)
    format = parse_format(text)
    return Adapting(text, lambda model: Recipe(plan_for(model), format), adapting)


def search_of(text: str) -> Callable[..., str] | None:
    """Return the architecture search of a method; None if the method has no search.

    Args:
        text: As in `method_of`, or `noah:budget=361000`.

    Returns:
        Function that takes a model with a new head, `Splits` and the keyword arguments `seed`, `epochs`, `batch_size`,
        `lr`, `weight_decay` and `progress`, and returns the method that the search found, as text.

    Raises:
        SweepError: Unknown name, or options that cannot be parsed.
    """
    name, options = read_method(text)
    if name != SEARCH:
        return None

    def search(model: nn.Module, splits: Splits, **training: Any) -> str:
        found = dataclasses.asdict(_checked(text, lambda: search_subnet(model, splits, **{**training, **options})))
        return f"noah-subnet:{','.join(f'{key}={value}' for key, value in found.items())}".replace(" ", "")

    return search


def takes_scale(text: str) -> bool:
    """Return whether a method has a scale: adapters do, baselines do not.

    Args:
        text: As in `method_of`.

    Raises:
        SweepError: Unknown name, or options that cannot be parsed.
    """
    return read_method(text)[0] not in (*BASELINES, SEARCH)


def num_parameters(text: str, model: nn.Module, *, scale: float | str | None = None, dropout: float = 0.0) -> int:
    """Count the parameters that a method trains, excluding the head; for a searched method, its budget.

    Args:
        text: As in `method_of`.
        model: The model, on any device, `meta` included; it is restored afterwards.
        scale: As in `method_of`.
        dropout: As in `method_of`.

    Raises:
        TensorfactError: The method is unknown, or does not apply to the model.
    """
    name, options = read_method(text)
    if name == SEARCH:
        _checked(text, lambda: inspect.signature(search_subnet).bind(None, None, **options))
        check_search(model, **options)
        return int(options.get("budget", BUDGET))
    trained = method_of(text, scale=scale, dropout=dropout).attach(model, seed=0)
    trained.remove()
    return trained.num_parameters


def read_method(text: str) -> tuple[str, Options]:
    """Parse the name of a method and its options; the options of a format are left to `parse_format`.

    Args:
        text: As in `method_of`.

    Raises:
        SweepError: Unknown name, or options that cannot be parsed.

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
            fix="lora:rank=8",
        )
    try:
        return name, read_options(rest) if name in own else {}
    except ValueError as error:
        raise SweepError(
            f"cannot parse the options of method {text!r}", expected="NAME:option=value,...", fix="lora:rank=8"
        ) from error


def _checked(text: str, make: Callable[[], T]) -> T:
    """Call `make`, and turn the TypeError of an unknown or missing option into a SweepError."""
    try:
        return make()
    except TypeError as error:
        raise SweepError(
            f"method {text!r}",
            got=str(error),
            cause="an unknown or a missing option",
            fix=f"leave the option out: {text.partition(':')[0]}",
        ) from error

"""Published methods as plans and formats: `tensorfact.recipes.lora(model).adapt(model)`."""

from collections.abc import Callable

from .across_layers import cara, fact_tk, fact_tk_released, fact_tt, lorta, lotr, metatt4, metatt5
from .per_matrix import kradapter, loha, lokr, lora, loretta, more, quanta, tt_lora, vera
from .recipe import Recipe

RECIPES: dict[str, Callable[..., Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        fact_tt,
        fact_tk,
        fact_tk_released,
        lora,
        lotr,
        lorta,
        cara,
        metatt4,
        metatt5,
        loretta,
        tt_lora,
        lokr,
        loha,
        vera,
        quanta,
        more,
        kradapter,
    )
}
"""The recipes by name."""

__all__ = [
    "RECIPES",
    "Recipe",
    "cara",
    "fact_tk",
    "fact_tk_released",
    "fact_tt",
    "kradapter",
    "loha",
    "lokr",
    "lora",
    "loretta",
    "lorta",
    "lotr",
    "metatt4",
    "metatt5",
    "more",
    "quanta",
    "tt_lora",
    "vera",
]


def __dir__() -> list[str]:
    return sorted(RECIPES)

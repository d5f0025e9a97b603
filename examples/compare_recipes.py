"""Train every recipe of a published method on the bundled model and real handwritten digits.

    python examples/compare_recipes.py                 # about 25 minutes on 2 cores
    python examples/compare_recipes.py --quick         # one epoch, one seed, to see that it runs

Each method's own scale is tried times 1, 3 and 10. The factor with the best validation accuracy of seed 0 is kept, and
the test split is read once for each seed, with that factor. `tried.csv` in the output folder has the validation
accuracy of every factor, `results.json`, `table.md` and `accuracy.png` have the comparison.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from tensorfact import Alpha, compare
from tensorfact.cli.progress import progress_bars
from tensorfact.lab import digits, nano
from tensorfact.lab.report import write_report
from tensorfact.recipes import RECIPES, Recipe
from tensorfact.storage.writing import write_text

SMALLER: dict[str, dict[str, Any]] = {
    "fact_tt": {"rank": 8},
    "fact_tk": {"rank": 16},
    "fact_tk_released": {"rank": 16},
    "vera": {"rank": 64},
    "cara": {"rank": 16},
}
"""Options for a width of 96, where a method's own are for 768."""


def main() -> None:
    """Choose the scales, compare, print a table, and write it with a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one epoch, one seed, one scale, few images")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    options = parser.parse_args()
    epochs, seeds, factors = (1, 1, [1.0]) if options.quick else (options.epochs, options.seeds, [1.0, 3.0, 10.0])
    model = nano()
    data = digits(model, train=128, val=64) if options.quick else digits(model)
    recipes = {name: recipe(model, **SMALLER.get(name, {})) for name, recipe in RECIPES.items()}
    settings: dict[str, Any] = {"epochs": epochs, "lr": 3e-3, "baselines": ()}
    lines, chosen = ["recipe,factor,val_accuracy"], {}
    with progress_bars() as progress:
        for name, recipe in recipes.items():
            tried = {f"{name} x{factor:g}": scaled(recipe, factor) for factor in factors}
            found = compare(model, data, tried, seeds=[0], progress=progress, **settings)
            accuracies = {row.label: row.val_accuracy[0] for row in found.rows}
            lines += [f"{label.replace(' x', ',')},{accuracy}" for label, accuracy in accuracies.items()]
            best = max(accuracies, key=lambda label: accuracies[label])
            chosen[best] = tried[best]
        result = compare(model, data, chosen, seeds=range(seeds), progress=progress, **settings)
    print(result)
    print(*write_report(result, options.out), sep="\n")
    write_text(options.out / "tried.csv", "\n".join(lines) + "\n")


def scaled(recipe: Recipe, factor: float) -> Recipe:
    """Return a recipe whose scale is so many times its own."""
    scale = recipe.options.get("scale", 1.0)
    more = dataclasses.replace(scale, alpha=scale.alpha * factor) if isinstance(scale, Alpha) else scale * factor
    return dataclasses.replace(recipe, options={**recipe.options, "scale": more})


if __name__ == "__main__":
    main()

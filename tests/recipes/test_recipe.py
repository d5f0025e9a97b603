"""Published methods: their counts, and their increments against formulas written out with plain torch."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tensorfact import Adapter, Format, TensorTrain, compare, recipes
from tensorfact.errors import PlanError
from tensorfact.lab import digits, nano
from tensorfact.lab.models import model_shapes
from tensorfact.recipes import RECIPES, Recipe
from tensorfact.recipes.recipe import fold, heads_of
from tests.helpers import difference, refused
from tests.recipes.formulas import FORMULAS, HEADS, LAYERS, ROLES, small


@pytest.fixture(scope="module")
def vit_b() -> nn.Module:
    return model_shapes("vit_base_patch16_224")


# --------------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(
    ("name", "options", "matrices", "count"),
    [
        *[("fact_tt", {"rank": r}, 1, c) for r, c in ((1, 1680), (2, 3648), (4, 8448), (8, 21504), (16, 61440))],
        *[("fact_tk", {"rank": r}, 1, c) for r, c in ((2, 3368), (4, 6784), (8, 13952), (16, 30976), (32, 86528))],
        *[("fact_tk_released", {"rank": r}, 1, c) for r, c in ((8, 13952), (32, 86528))],
        ("lora", {"rank": 8}, 1, 294_912),
        ("lotr", {"rank": 2}, 1, 3168),
        ("lorta", {"rank": 8}, 1, 6880),
        ("lorta", {"rank": 20}, 1, 17_200),
        ("cara", {"rank": 32}, 1, 85_440),
        ("cara", {"rank": 16}, 1, 45_024),
        ("metatt4", {"rank": 8}, 1, 13_184),
        ("metatt4", {"rank": 64}, 1, 155_648),
        ("metatt5", {"rank": 8}, 1, (768 + 64) * 8 + (12 + 2 + 12) * 64),
        ("loretta", {}, 1, 27_840),
        ("loretta", {}, 24, 1160),
        ("tt_lora", {}, 1, 23_760),
        ("tt_lora", {}, 24, 990),
        ("lokr", {"rank": 8}, 24, 1088),
        ("lokr", {"rank": None}, 24, 1600),
        ("loha", {"rank": 8}, 24, 24_576),
        ("vera", {"rank": 256}, 1, 24_576),
        ("quanta", {"axes": (16, 8, 6)}, 24, 27_904),
        ("more", {}, 36, 6144),
        ("kradapter", {}, 24, 43_008),
    ],
)
def test_the_count_is_the_published_one(
    vit_b: nn.Module, name: str, options: dict[str, Any], matrices: int, count: int
) -> None:
    assert RECIPES[name](vit_b, **options).num_parameters(vit_b) == matrices * count


# ------------------------------------------------------------------------------------------------------------- formulas


def slices(adapter: Adapter, layer: int, role: str) -> Tensor:
    """Return the increment of one d x d slice (out, in)."""
    block, number = f"blocks.{layer}", int(role[-1]) if role[-1].isdigit() else 0
    if role in "qkv":
        return adapter.delta(f"{block}.attn.qkv.weight").chunk(3)["qkv".index(role)]
    if role == "o":
        return adapter.delta(f"{block}.attn.proj.weight")
    if role.startswith("up"):
        return adapter.delta(f"{block}.mlp.fc1.weight").chunk(4)[number]
    return adapter.delta(f"{block}.mlp.fc2.weight").chunk(4, 1)[number]


def cores_of(adapter: Adapter, tensor: str) -> dict[str, Tensor]:
    named = adapter.named_cores()
    return {name.rpartition(".")[2]: c.detach().double() for name, c in named.items() if name.startswith(f"{tensor}.")}


@pytest.mark.parametrize("name", RECIPES)
def test_the_increment_is_the_published_formula(name: str) -> None:
    formula, roles, scale, options = FORMULAS[name]
    adapter = RECIPES[name](small(), **options).adapt(small(), seed=0)
    before = {t: cores_of(adapter, t) for t in adapter.formats}
    torch.manual_seed(1)
    with torch.no_grad():
        for core in adapter.factors.parameters():
            core.copy_(torch.randn_like(core) if core.requires_grad else core)
    for layer in range(LAYERS):
        for role in ROLES:
            if role not in roles:
                assert role not in adapter.resolved.tensors[0].coordinates["role"]
                continue
            found = slices(adapter, layer, role).double()
            tensor = next(iter(adapter.formats)) if name != "cara" or role in "qkv" else "others"
            expected = formula(cores_of(adapter, tensor), layer, role)
            if adapter.starts:
                expected = expected - formula(before[tensor], layer, role)
            assert difference(found, scale * expected) < 1e-4, (layer, role)


# --------------------------------------------------------------------------------------------------------------- starts


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_starts_as_published(name: str) -> None:
    model, x = small(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        base = model(x)
    adapter = RECIPES[name](model, **FORMULAS[name][3]).adapt(model, seed=0)
    with torch.no_grad():
        assert torch.equal(model(x), base) == (name not in {"loretta", "tt_lora"})
    optimizer = torch.optim.SGD([p for p in adapter.parameters() if p.requires_grad], 0.1)
    seen: set[str] = set()
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        seen |= {n for n, p in adapter.named_parameters() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    assert seen == {name for name, p in adapter.named_parameters() if p.requires_grad}


def test_starts_are_those_of_the_papers() -> None:
    cores = recipes.lotr(small(), rank=16).adapt(small(), seed=0).named_cores()
    assert not cores["encoder.C"].any()
    assert abs(float(cores["encoder.U1"].detach().std()) - 1) < 0.1
    cores = recipes.vera(small(), rank=16).adapt(small(), seed=0).named_cores()
    assert bool((cores["encoder.D1"] == 0.1).all())
    assert not cores["encoder.U"].requires_grad


def test_recipes_are_short() -> None:
    """A published method is a few lines: at most ten below its description."""
    for recipe in RECIPES.values():
        body = inspect.getsource(recipe).split('"""')[2].strip().splitlines()
        assert len(body) <= 10, recipe.__name__


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_where_it_is_from(name: str) -> None:
    assert "Source: " in (inspect.getdoc(RECIPES[name]) or "")


def test_options_of_a_recipe_give_way() -> None:
    model = small()
    recipe = recipes.lora(model, rank=4)
    assert isinstance(recipe, Recipe)
    assert recipe.adapt(model, scale=3.0).scales == {"encoder": 3.0}


@pytest.mark.slow
def test_recipes_are_compared_with_formats() -> None:
    model = nano()
    methods: dict[str, Format | Recipe] = {"lora": recipes.lora(model, rank=1), "tt": TensorTrain(1)}
    data = digits(model, train=16, val=8)
    found = compare(model, data, methods, seeds=[0], epochs=1, baselines=())
    assert [(row.label, row.parameters) for row in found.rows] == [("lora", 12 * 2 * 96), ("tt", 2 * 96 + 72)]


def test_heads_are_asked_for_where_a_model_does_not_say() -> None:
    assert heads_of(small(), None) == HEADS
    with refused(PlanError, "heads=12"):
        heads_of(nn.Linear(2, 2), None)


@pytest.mark.parametrize(("size", "parts", "factors"), [(768, 2, (24, 32)), (768, 3, (8, 8, 12)), (7, 2, (1, 7))])
def test_folds_are_even(size: int, parts: int, factors: tuple[int, ...]) -> None:
    assert fold(size, parts) == factors

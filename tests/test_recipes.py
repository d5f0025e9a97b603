"""Published methods: their counts, and their increments against formulas written out with plain torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, einsum, nn

from tensorfact import Adapter, Format, TensorTrain, compare, recipes
from tensorfact.errors import PlanError
from tensorfact.lab import digits, nano
from tensorfact.lab.models import model_shapes
from tensorfact.recipes import RECIPES, Recipe
from tensorfact.recipes.recipe import fold, heads_of

from .helpers import difference, refused

D, LAYERS, HEADS = 48, 2, 3
DIM = D // HEADS
QV = ("q", "v")
Cores = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def vit_b() -> nn.Module:
    return model_shapes("vit_base_patch16_224")


def small() -> nn.Module:
    torch.manual_seed(0)
    options = {"depth": LAYERS, "embed_dim": D, "num_heads": HEADS, "img_size": 16, "patch_size": 8, "num_classes": 3}
    return cast("nn.Module", timm.create_model("vit_base_patch16_224", **options).eval())


# -------------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(
    ("name", "options", "matrices", "count"),
    [
        *[("fact_tt", {"rank": r}, 1, c) for r, c in ((1, 1680), (2, 3648), (4, 8448), (8, 21504), (16, 61440))],
        *[("fact_tk", {"rank": r}, 1, c) for r, c in ((2, 3368), (4, 6784), (8, 13952), (16, 30976), (32, 86528))],
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


def test_swin_has_a_tensor_a_stage() -> None:
    swin = model_shapes("swin_base_patch4_window7_224")
    assert recipes.fact_tt(swin, rank=16).num_parameters(swin) == 135_168


# ------------------------------------------------------------------------------------------------------------ formulas

Formula = Callable[[Cores, int, str], Tensor]
"""The slice (out, in) of a layer and role, from the cores."""


def at(layer: int, role: str, roles: tuple[str, ...] = QV) -> int:
    return layer * len(roles) + roles.index(role)


ROLES = ("q", "k", "v", "o", *(f"up{k}" for k in range(4)), *(f"down{k}" for k in range(4)))


def fact_tt(c: Cores, layer: int, role: str) -> Tensor:
    return einsum("ju,uv,vk->kj", c["U"], c["S1"][:, at(layer, role, ROLES)], c["V"])


def fact_tk(c: Cores, layer: int, role: str) -> Tensor:
    return einsum("abc,a,jb,kc->kj", c["C"], c["U2"][at(layer, role, ROLES)], c["U1"], c["U3"])


def lora(c: Cores, layer: int, role: str) -> Tensor:
    return (c["A"][at(layer, role)] @ c["B"][at(layer, role)]).T


def lotr(c: Cores, layer: int, role: str) -> Tensor:
    return (c["U1"] @ c["C"][at(layer, role)] @ c["U2"].T).T


def lorta(c: Cores, layer: int, role: str) -> Tensor:
    place = c["U4"][layer] * c["U3"]["qkvo".index(role)]
    return einsum("or,br,hr,r->ohb", c["U5"], c["U1"], c["U2"], place).reshape(D, D)


def cara(c: Cores, layer: int, role: str) -> Tensor:
    if role in "qkv":  # `U3` heads, `U4` within a head, which both are outputs
        weights = c["w"] * c["U2"][at(layer, role, ("q", "k", "v"))]
        return einsum("ir,hr,br,r->hbi", c["U1"], c["U3"], c["U4"], weights).reshape(D, D)
    dense = einsum("ir,or,r->oi", c["U1"], c["U3"], c["w"] * c["U2"][at(layer, role, ROLES[3:])])
    return dense.T if role.startswith("down") else dense


def metatt4(c: Cores, layer: int, role: str) -> Tensor:
    return (c["U"] @ c["S1"][:, layer] @ c["S2"][:, QV.index(role)] @ c["V"]).T


def metatt5(c: Cores, layer: int, role: str) -> Tensor:
    row = c["U"] @ c["S1"][:, layer] @ c["S2"][:, QV.index(role)]
    return einsum("ia,ahb,bd->hdi", row, c["S3"], c["V"]).reshape(D, D)


def train(*cores: Tensor) -> Tensor:
    whole = cores[0]
    for core in cores[1:]:
        whole = torch.tensordot(whole, core, 1)
    return whole


def loretta(c: Cores, layer: int, role: str) -> Tensor:
    own = {name: core[at(layer, role)] for name, core in c.items()}
    a = train(*(own[f"A_{name}"] for name in ("U", "S1", "S2", "V"))).reshape(D, 8)
    b = train(*(own[f"B_{name}"] for name in ("U", "S1", "S2", "V"))).reshape(8, D)
    return (a @ b).T


def tt_lora(c: Cores, layer: int, role: str) -> Tensor:
    return train(*(core[at(layer, role)] for core in c.values())).reshape(D, D)


def lokr(c: Cores, layer: int, role: str) -> Tensor:
    own = {name: core[at(layer, role)] for name, core in c.items()}
    return torch.kron(own["W1"], own["W2a"] @ own["W2b"])


def loha(c: Cores, layer: int, role: str) -> Tensor:
    own = {name: core[at(layer, role)] for name, core in c.items()}
    return ((own["A1"] @ own["B1"]) * (own["A2"] @ own["B2"])).T


def vera(c: Cores, layer: int, role: str) -> Tensor:
    b, d = c["D"][at(layer, role)], c["D1"][at(layer, role)]
    return b.diag() @ c["V"].T @ d.diag() @ c["U"].T


def quanta(c: Cores, layer: int, role: str) -> Tensor:
    first, second, third = (core[at(layer, role)] for core in c.values())
    return einsum("efbc,diaf,ghde->ghiabc", first, second, third).reshape(D, D)


def more(c: Cores, layer: int, role: str) -> Tensor:
    k = "qkv".index(role) + 3 * layer
    return einsum("kpq,kqs->sqkp", c["L"][k, ..., 0], c["R"][k, :, :, 0]).reshape(D, D)


def kradapter(c: Cores, layer: int, role: str) -> Tensor:
    u, v = c["U"][at(layer, role)], c["V"][at(layer, role)]
    return einsum("mi,mj->mji", u, v).reshape(D, -1)[:, :D]


FORMULAS: dict[str, tuple[Formula, tuple[str, ...], float, dict[str, Any]]] = {
    "fact_tt": (fact_tt, ROLES, 0.5, {"rank": 4, "scale": 0.5}),
    "fact_tk": (fact_tk, ROLES, 0.5, {"rank": 4, "scale": 0.5}),
    "lora": (lora, QV, 2.0, {"rank": 4, "alpha": 8.0}),
    "lotr": (lotr, QV, 2.0, {"rank": 4, "alpha": 8.0}),
    "lorta": (lorta, ("q", "k", "v", "o"), 2.0, {"rank": 4, "alpha": 8.0}),
    "cara": (cara, ROLES, 0.5, {"rank": 4, "scale": 0.5}),
    "metatt4": (metatt4, QV, 3.0, {"rank": 4, "alpha": 3.0}),
    "metatt5": (metatt5, QV, 3.0, {"rank": 4, "alpha": 3.0}),
    "loretta": (loretta, QV, 2.0, {"tensor_rank": 2, "alpha": 16.0}),
    "tt_lora": (tt_lora, QV, 3.0, {"rank": 2, "alpha": 3.0}),
    "lokr": (lokr, QV, 2.0, {"rank": 4, "alpha": 8.0}),
    "loha": (loha, QV, 2.0, {"rank": 4, "alpha": 8.0}),
    "vera": (vera, QV, 1.0, {"rank": 16}),
    "quanta": (quanta, QV, 1.0, {}),
    "more": (more, ("q", "k", "v"), 1.0, {}),
    "kradapter": (kradapter, QV, 2.0, {}),
}
"""For every recipe its formula, the roles it adapts, and the scale that some options mean."""


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


def test_cara_trains_three_biases_that_all_layers_share() -> None:
    model = small()
    adapter = recipes.cara(model, rank=4, scale=0.5).adapt(model, seed=0)
    with torch.no_grad():
        for core in adapter.parameters():
            core.normal_()
    for tensor, parameter in {"bias_o": "attn.proj", "bias_up": "mlp.fc1", "bias_down": "mlp.fc2"}.items():
        for layer in range(LAYERS):
            found = adapter.delta(f"blocks.{layer}.{parameter}.bias")
            assert torch.equal(found, 0.5 * adapter.named_cores()[f"{tensor}.V"])


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


def test_heads_of_several_sizes_are_refused() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 96, "vocab_size": 50}
    llama = transformers.LlamaModel(transformers.LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **sizes))
    with refused(PlanError, "grouped-query", "roles"):
        recipes.metatt5(llama, rank=2)
    assert recipes.metatt5(llama, rank=2, roles=["q"]).num_parameters(llama) > 0


@pytest.mark.parametrize("name", ["loretta", "lokr", "quanta"])
def test_a_width_that_is_folded_is_one(name: str) -> None:
    with refused(PlanError, "stages", "roles="):
        RECIPES[name](model_shapes("swin_base_patch4_window7_224"))


def test_three_axes_are_three() -> None:
    with refused(PlanError, "(2, 2)"):
        recipes.quanta(small(), axes=(2, 2))


def test_options_of_a_recipe_give_way() -> None:
    model = small()
    recipe = recipes.lora(model, rank=4)
    assert isinstance(recipe, Recipe)
    assert recipe.adapt(model, scale=3.0).scales == {"encoder": 3.0}


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

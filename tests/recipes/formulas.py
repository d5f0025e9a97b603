"""The published methods written out with plain torch, on a small model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import timm
import torch
from torch import Tensor, einsum, nn

D, LAYERS, HEADS = 48, 2, 3
DIM = D // HEADS
QV = ("q", "v")
Cores = Mapping[str, Tensor]


def small() -> nn.Module:
    torch.manual_seed(0)
    options = {"depth": LAYERS, "embed_dim": D, "num_heads": HEADS, "img_size": 16, "patch_size": 8, "num_classes": 3}
    return cast("nn.Module", timm.create_model("vit_base_patch16_224", **options).eval())


Formula = Callable[[Cores, int, str], Tensor]
"""The slice (out, in) of a layer and role, from the cores."""


def at(layer: int, role: str, roles: tuple[str, ...] = QV) -> int:
    return layer * len(roles) + roles.index(role)


ROLES = ("q", "k", "v", "o", *(f"up{k}" for k in range(4)), *(f"down{k}" for k in range(4)))


def fact_tt(c: Cores, layer: int, role: str) -> Tensor:
    return einsum("ju,uv,vk->kj", c["U"], c["S1"][:, at(layer, role, ROLES)], c["V"])


def fact_tk(c: Cores, layer: int, role: str) -> Tensor:
    return einsum("abc,a,jb,kc->kj", c["C"], c["U2"][at(layer, role, ROLES)], c["U1"], c["U3"])


def fact_tk_released(c: Cores, layer: int, role: str) -> Tensor:
    """Compute the slice as a layer's forward pass does in the released code, on the unit vectors as its inputs."""
    r = c["C"].shape[0]
    core = c["C"] @ c["U2"][layer].T  # (r, r, 12)
    x = torch.eye(D, dtype=core.dtype)
    if role in "qkvo":
        return (x @ c["U1"] @ core[:, :, ROLES.index(role)] @ c["U3"].T).T
    chunk = int(role[-1])
    if role.startswith("up"):
        h = x @ c["U1"] @ core[:, :, 4:8].reshape(r, 4 * r)
        return (h.reshape(D, 4, r) @ c["U3"].T)[:, chunk].T
    wide = torch.zeros(D, 4, D, dtype=core.dtype)
    wide[:, chunk] = x
    return ((wide @ c["U1"]).reshape(D, 4 * r) @ core[:, :, 8:].reshape(r, 4 * r).T @ c["U3"].T).T


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
    "fact_tk_released": (fact_tk_released, ROLES, 0.5, {"rank": 4, "scale": 0.5}),
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

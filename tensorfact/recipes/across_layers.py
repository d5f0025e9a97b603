"""Published methods with one tensor, or a few, for all layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from ..adapters import Alpha
from ..common.checks import flag
from ..errors import PlanError
from ..formats import CP, PartialTucker, ReshapedTucker, Started, TensorTrain, Tucker
from ..plan import Group, Rule, TensorizationPlan, plan_for
from .recipe import Recipe, layers_by_matrices, split_heads

QV = ("q", "v")


def fact_tt(model: nn.Module, rank: int = 16, scale: float = 1.0, released_start: bool = False) -> Recipe:
    """FacT-TT: all matrices of all layers in one tensor, cut into d x d slices, and a tensor-train.

    Swin gets one tensor a stage.

    Args:
        model: The model; it is only read.
        rank: The rank.
        scale: Scale s of the update: W + s dW.
        released_start: Draw U and S1 as the released code does: uniform, three times smaller together. There the part
            of S1 for the second matrix of the MLP is smaller by another factor of two.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: S. Jie & Z.-H. Deng, FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer, AAAI 2023;
    `FacT/fact_tt.py` of https://github.com/JieShibo/PETL-ViT.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.fact_tt(model).num_parameters(model)
        21504
    """
    format = TensorTrain(rank)
    if flag(released_start, "fact_tt: released_start", PlanError):
        return Recipe(plan_for(model), Started(format, {"U": "linear", "S1": "linear"}), {"scale": scale})
    return Recipe(plan_for(model), format, {"scale": scale})


def fact_tk(model: nn.Module, rank: int = 32, scale: float = 1.0) -> Recipe:
    """FacT-TK: the same tensor, and Tucker.

    This is the equation of the paper; `fact_tk_released` is the released code's, which differs in the MLP.

    Args:
        model: The model; it is only read.
        rank: The rank.
        scale: Scale s of the update: W + s dW.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: S. Jie & Z.-H. Deng, FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer, AAAI 2023.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.fact_tk(model, rank=16).num_parameters(model)
        8320
    """
    return Recipe(plan_for(model), Tucker(rank), {"scale": scale})


def fact_tk_released(model: nn.Module, rank: int = 32, scale: float = 1.0, released_start: bool = False) -> Recipe:
    """FacT-TK as released: Tucker, whose part of the core is reshaped for the two matrices of the MLP.

    The count is that of `fact_tk`, and the attention's increments are the same.

    Args:
        model: The model; it is only read. Every layer needs q, k, v, o and equally many chunks of the MLP's two
            matrices, as timm's ViT has.
        rank: The rank.
        scale: Scale s of the update: W + s dW.
        released_start: Draw U1, U2 and C as the released code does: uniform, about twelve times smaller at rank 8.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or a layer has other matrices.

    Source: S. Jie & Z.-H. Deng, FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer, AAAI 2023;
    `FacT/fact_tk.py` of https://github.com/JieShibo/PETL-ViT.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.fact_tk_released(model, rank=16).num_parameters(model)
        8320
    """
    plan, format = layers_by_matrices(plan_for(model), model), ReshapedTucker(rank)
    if flag(released_start, "fact_tk_released: released_start", PlanError):
        cube = math.sqrt((1 + 1 / rank) / 2)  # Xavier's rule as torch applies it to three dimensions
        starts = {"U1": "linear", "U2": "xavier", "C": f"xavier:{cube:.9g}"}
        return Recipe(plan, Started(format, starts), {"scale": scale})
    return Recipe(plan, format, {"scale": scale})


def lotr(model: nn.Module, rank: int = 2, alpha: float = 2.0, roles: Sequence[str] = QV) -> Recipe:
    """LoTR: the q and v of all layers in one tensor, and Tucker-2, whose core starts at zero.

    Args:
        model: The model; it is only read.
        rank: The rank.
        alpha: The scale is alpha / rank.
        roles: The slices to adapt, by their labels in `plan_for(model)`.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: D. Bershatsky et al., LoTR: Low Tensor Rank Weight Adaptation, 2024.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.lotr(model).num_parameters(model)
        432
    """
    format = Started(PartialTucker(rank), {"C": "zero", "U1": "normal:1", "U2": "normal:1"})
    return Recipe(plan_for(model).only(role=roles), format, {"scale": Alpha(alpha)})


def lorta(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 8.0,
    heads: int | None = None,
    roles: Sequence[str] = ("q", "k", "v", "o"),
) -> Recipe:
    """LoRTA: the attention of all layers in a tensor of five modes, the inputs split into heads, and CP.

    Args:
        model: The model; it is only read.
        rank: The rank.
        alpha: The scale is alpha / rank.
        heads: The number of attention heads; by default the one the model states.
        roles: The slices to adapt, by their labels in `plan_for(model)`.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: I. Hounie et al., LoRTA: Low Rank Tensor Adaptation of Large Language Models, 2024.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.lorta(model).num_parameters(model)
        1128
    """
    plan = split_heads(plan_for(model).only(role=roles), model, "in", heads)
    format = Started(CP(rank), {"U1": "zero"})  # the factor of `dim`
    return Recipe(plan.arranged("out dim head role layer"), format, {"scale": Alpha(alpha)})


def cara(model: nn.Module, rank: int = 32, scale: float = 1.0, heads: int | None = None) -> Recipe:
    """CaRA: one tensor for q, k and v with heads as a mode, one for the other matrices, CP with weights, shared biases.

    For timm's ViT. In the second tensor the chunks of `fc2` are transposed.

    Args:
        model: The model; it is only read.
        rank: The rank.
        scale: Scale s of the update: W + s dW.
        heads: The number of attention heads; by default the one the model states.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: L. Veeramacheneni et al., Canonical Rank Adaptation: An Efficient Fine-Tuning Strategy for Vision
    Transformers, ICML 2025.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.cara(model).num_parameters(model)
        13280
    """
    plan, layers = plan_for(model), {"bias_o": "attn.proj", "bias_up": "mlp.fc1", "bias_down": "mlp.fc2"}
    ups, downs = ([f"{name}{k}" for k in range(4)] for name in ("up", "down"))
    qkv = split_heads(plan.only(role=["q", "k", "v"]), model, "out", heads)
    others = plan.only(role=["o", *ups, *downs]).swapped("in", "out", role=downs)
    rules = {name: Rule(f"blocks.{{layer}}.{layer}.bias", "out") for name, layer in layers.items()}
    biases = TensorizationPlan(tuple(Group(name, "out", (rule,), tied="layer") for name, rule in rules.items()))
    weights = Started(CP(rank, weights=True), {"U1": "orthogonal", "U2": "orthogonal"})
    formats = {"qkv": weights, "others": weights, **dict.fromkeys(rules, TensorTrain(1))}
    joined = TensorizationPlan.joined({"qkv": qkv, "others": others, "": biases})
    return Recipe(joined, formats, {"scale": scale, "dropout": {"increment": 0.1}})


def metatt4(model: nn.Module, rank: int = 8, alpha: float = 1.0, roles: Sequence[str] = QV) -> Recipe:
    """MetaTT-4D: layers and matrices as modes of their own between inputs and outputs, and a tensor-train.

    Args:
        model: The model; it is only read.
        rank: The rank.
        alpha: The scale.
        roles: The slices to adapt, by their labels in `plan_for(model)`.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: J. Lopez-Piqueres et al., MetaTT: A Global Tensor-Train Adapter for Parameter-Efficient Fine-Tuning, 2025.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.metatt4(model).num_parameters(model)
        2048
    """
    order = ("in", "layer", "role", "out")
    return Recipe(
        plan_for(model).only(role=roles).arranged(" ".join(order)), TensorTrain(rank, order), {"scale": alpha}
    )


def metatt5(
    model: nn.Module, rank: int = 8, alpha: float = 1.0, heads: int | None = None, roles: Sequence[str] = QV
) -> Recipe:
    """MetaTT-5D: MetaTT with the heads as one more mode.

    Args:
        model: The model; it is only read.
        rank: The rank.
        alpha: The scale.
        heads: The number of attention heads; by default the one the model states.
        roles: The slices to adapt, by their labels in `plan_for(model)`.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: J. Lopez-Piqueres et al., MetaTT: A Global Tensor-Train Adapter for Parameter-Efficient Fine-Tuning, 2025.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.metatt5(model).num_parameters(model)
        1728
    """
    order = ("in", "layer", "role", "head", "dim")
    plan = split_heads(plan_for(model).only(role=roles), model, "out", heads)
    return Recipe(plan.arranged(" ".join(order)), TensorTrain(rank, order), {"scale": alpha})

"""Published methods with separate factors for every matrix."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..adapters import Alpha
from ..errors import PlanError
from ..formats import (
    Diagonals,
    Each,
    Gates,
    Hadamard,
    KhatriRao,
    Kronecker,
    MatrixBatch,
    Monarch,
    Nested,
    Started,
    TensorTrain,
)
from ..plan import plan_for
from .recipe import Recipe, fold, width

QV = ("q", "v")


def lora(model: nn.Module, rank: int = 8, alpha: float = 8.0, roles: Sequence[str] = QV) -> Recipe:
    """LoRA: a product of two low-rank matrices for every weight.

    Args:
        model: The model; it is only read.
        rank: The rank of the product.
        alpha: The scale is alpha / rank.
        roles: The slices to adapt, by their labels in `plan_for(model)`.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: E. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.lora(model).num_parameters(model)
        18432
    """
    return Recipe(plan_for(model).only(role=roles), MatrixBatch(rank), {"scale": Alpha(alpha)})


def loretta(
    model: nn.Module, rank: int = 8, tensor_rank: int = 5, alpha: float = 8.0, roles: Sequence[str] = QV
) -> Recipe:
    """LoRETTA (rep): LoRA whose two matrices are folded into tensor-trains. The increment does not start at zero.

    Args:
        model: The model; it is only read.
        rank: LoRA's rank.
        tensor_rank: The rank of the tensor-trains.
        alpha: The scale is alpha / rank.
        roles: The slices to adapt, by their labels in `plan_for(model)`.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: Y. Yang et al., LoRETTA: Low-Rank Economic Tensor-Train Adaptation, NAACL 2024.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.loretta(model).num_parameters(model)
        6744
    """
    plan = plan_for(model).only(role=roles)
    (a, b, c), (d, e, f) = (fold(width(plan, model, side), 3) for side in ("in", "out"))
    plan = plan.split("in", {"in1": a, "in2": b, "in3": c}).split("out", {"out1": d, "out2": f, "out3": e})
    train = Each(TensorTrain(tensor_rank))
    format = Started(Nested(MatrixBatch(rank), {"A": train, "B": train}), {"B_V": "normal"})
    return Recipe(plan, format, {"scale": Alpha(alpha)})


def tt_lora(model: nn.Module, rank: int = 5, alpha: float = 1.0, roles: Sequence[str] = QV) -> Recipe:
    """TT-LoRA: every weight folded to six modes, as a tensor-train. The increment does not start at zero.

    Args:
        model: The model; it is only read.
        rank: The rank of the tensor-train.
        alpha: Scale s of the update: W + s dW.
        roles: The slices to adapt, by their labels in `plan_for(model)`.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: A. Anjum et al., Tensor Train Low-rank Approximation (TT-LoRA), 2024.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.tt_lora(model).num_parameters(model)
        5160
    """
    plan = plan_for(model).only(role=roles).split("out", {"out1": None, "out2": 4, "out3": 3})
    order = ("out1", "out2", "out3", "in1", "in2", "in3")
    format = Started(Each(TensorTrain(rank, order)), {"V": "normal"})
    return Recipe(plan.split("in", {"in1": 3, "in2": 4, "in3": None}), format, {"scale": alpha})


def lokr(model: nn.Module, rank: int | None = 8, alpha: float = 8.0, roles: Sequence[str] = QV) -> Recipe:
    """LoKr, KronA: a Kronecker product of two small matrices for every weight, the second of low rank.

    Args:
        model: The model; it is only read.
        rank: The rank of the second matrix; None for a full matrix.
        alpha: The scale is alpha / rank.
        roles: The slices to adapt, by their labels in `plan_for(model)`.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: S. Yeh et al., LyCORIS, ICLR 2024; A. Edalati et al., KronA, 2022.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.lokr(model).num_parameters(model)
        3072
    """
    plan = plan_for(model).only(role=roles)
    (a, b), (c, d) = (fold(width(plan, model, side), 2) for side in ("in", "out"))
    plan = plan.split("in", {"in1": a, "in2": b}).split("out", {"out1": c, "out2": d})
    return Recipe(plan, Kronecker(rank), {"scale": Alpha(alpha)})


def loha(model: nn.Module, rank: int = 8, alpha: float = 8.0, roles: Sequence[str] = QV) -> Recipe:
    """LoHa: the elementwise product of two low-rank matrices for every weight.

    Args:
        model: The model; it is only read.
        rank: The rank of each of the two matrices.
        alpha: The scale is alpha / rank.
        roles: The slices to adapt, by their labels in `plan_for(model)`.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: N. Hyeon-Woo et al., FedPara, ICLR 2022; S. Yeh et al., LyCORIS, ICLR 2024.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.loha(model).num_parameters(model)
        36864
    """
    return Recipe(plan_for(model).only(role=roles), Hadamard(rank), {"scale": Alpha(alpha)})


def vera(model: nn.Module, rank: int = 256, roles: Sequence[str] = QV) -> Recipe:
    """VeRA: two frozen random matrices shared by all weights, and two trained diagonals for each.

    Args:
        model: The model; it is only read.
        rank: The inner dimension of the random matrices.
        roles: The slices to adapt, by their labels in `plan_for(model)`.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: D. Kopiczko et al., VeRA: Vector-based Random Matrix Adaptation, ICLR 2024.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.vera(model, rank=64).num_parameters(model)
        1920
    """
    return Recipe(plan_for(model).only(role=roles), Diagonals(TensorTrain(rank)), {"scale": 1.0})


def quanta(model: nn.Module, axes: Sequence[int] | None = None, roles: Sequence[str] = QV) -> Recipe:
    """QuanTA: a gate for each pair of three axes, to which inputs and outputs are folded; the start is subtracted.

    Args:
        model: The model; it is only read.
        axes: The sizes of the three axes; by default as equal as possible.
        roles: The slices to adapt, by their labels in `plan_for(model)`.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: Z. Chen et al., QuanTA: Efficient High-Rank Fine-Tuning of LLMs, NeurIPS 2024.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.quanta(model).num_parameters(model)
        16896
    """
    plan = plan_for(model).only(role=roles)
    sizes = tuple(axes or fold(width(plan, model, "in"), 3)[::-1])
    if len(sizes) != 3:
        raise PlanError("quanta: axes", expected="three sizes", got=repr(axes), fix="axes=(16, 8, 6)")
    a, b, c = sizes
    plan = plan.split("in", {"in1": a, "in2": b, "in3": c}).split("out", {"out1": a, "out2": b, "out3": c})
    return Recipe(plan, Gates(), {"scale": 1.0, "subtract_start": True})


def more(model: nn.Module, blocks: int = 4, roles: Sequence[str] = ("q", "k", "v")) -> Recipe:
    """MoRe: a Monarch matrix for every weight, two block-diagonal matrices with a permutation between them.

    Args:
        model: The model; it is only read.
        blocks: The number of blocks of inputs and outputs.
        roles: The slices to adapt, by their labels in `plan_for(model)`.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: W. Tan et al., MoRe Fine-Tuning with 10x Fewer Parameters, 2024; T. Dao et al., Monarch, ICML 2022.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.more(model).num_parameters(model)
        13824
    """
    plan = plan_for(model).only(role=roles).split("in", {"k": blocks, "p": None})
    return Recipe(plan.split("out", {"s": None, "q": blocks}), Monarch(), {"scale": 1.0})


def kradapter(model: nn.Module, scale: float = 2.0, roles: Sequence[str] = QV) -> Recipe:
    """KRAdapter: the row-wise Kronecker product of two thin matrices for every weight.

    Args:
        model: The model; it is only read.
        scale: Scale s of the update: W + s dW.
        roles: The slices to adapt, by their labels in `plan_for(model)`.

    Returns:
        The recipe.

    Raises:
        PlanError: The model is not of a known family, or does not have these slices.

    Source: P. Albert et al., Towards Higher Effective Rank in Parameter-Efficient Fine-Tuning Using Khatri-Rao Product,
    ICCV 2025.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.kradapter(model).num_parameters(model)
        23040
    """
    return Recipe(plan_for(model).only(role=roles), KhatriRao(), {"scale": scale})

"""Published choices of baselines that differ from task to task."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from ...common.checks import one_of
from ...errors import DataError
from ..data import VTAB

SHALLOW = (100, 5, 1, 200, 50, 200, 1, 5, 50, 50, 10, 100, 200, 100, 100, 100, 100, 200, 200)
DEEP = (10, 10, 10, 1, 1, 50, 5, 100, 100, 10, 1, 50, 200, 100, 50, 10, 50, 200, 200)
SWIN_SHALLOW, SWIN_DEEP = (23,), (13, 14)
"""Tokens on Swin-B, for the tasks in turn."""

PROMPT_LENGTHS: Mapping[str, tuple[int, int]] = MappingProxyType(
    dict(zip(VTAB, zip(SHALLOW, DEEP, strict=True), strict=True))
)
"""VPT's numbers of tokens on ViT-B/16 of ImageNet-21K for every task of VTAB-1K: shallow and deep.

They give the shares of trained parameters that the paper's tables print for each task. The published sizes, 0.063 M and
0.531 M, are the means of the three groups' means, each rounded to 0.001 M.
"""


def prompt_length(task: str, *, deep: bool, family: Literal["vit", "swin"] = "vit") -> int:
    """Return VPT's number of tokens for a task of VTAB-1K, to pass to `PromptTuning`.

    On ViT-B it is the paper's. Of Swin-B only the mean sizes over tasks are certain, 0.003 M (shallow) and 0.162 M
    (deep), for the printed shares fit no whole numbers on three tasks. There it is 23 for every task, and 13 and 14
    in turn, which have these means.

    Args:
        task: A name of `tensorfact.lab.data.VTAB`.
        deep: Whether every block has tokens of its own.
        family: Which of the two models.

    Raises:
        DataError: There is no such task or family, or `deep` is neither True nor False.

    Examples:
        >>> prompt_length("svhn", deep=True)
        50
    """
    for what, name, known in (("task", task, list(VTAB)), ("family", family, ["vit", "swin"])):
        one_of(name, known, f"prompt_length: {what}", DataError)
    if type(deep) is not bool:
        raise DataError("prompt_length: deep", expected="True or False", got=repr(deep))
    if family == "swin":
        lengths = SWIN_DEEP if deep else SWIN_SHALLOW
        return lengths[list(VTAB).index(task) % len(lengths)]
    return PROMPT_LENGTHS[task][deep]

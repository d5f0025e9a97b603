"""Published settings of baselines that differ from task to task."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from ...common.checks import flag, one_of
from ...errors import DataError
from ..data import VTAB

SHALLOW = (100, 5, 1, 200, 50, 200, 1, 5, 50, 50, 10, 100, 200, 100, 100, 100, 100, 200, 200)
DEEP = (10, 10, 10, 1, 1, 50, 5, 100, 100, 10, 1, 50, 200, 100, 50, 10, 50, 200, 200)
SWIN_SHALLOW, SWIN_DEEP = (23,), (13, 14)
"""Numbers of prompts on Swin-B, which the tasks take in turn."""

PROMPT_LENGTHS: Mapping[str, tuple[int, int]] = MappingProxyType(
    dict(zip(VTAB, zip(SHALLOW, DEEP, strict=True), strict=True))
)
"""VPT's numbers of prompts on ViT-B/16 (ImageNet-21K) for every task of VTAB-1K: shallow and deep.

They reproduce the shares of trained parameters in the paper's tables for each task. The published sizes, 0.063 M and
0.531 M, are the means of the three groups' means, each rounded to 0.001 M.
"""


def prompt_length(task: str, *, deep: bool, family: Literal["vit", "swin"] = "vit") -> int:
    """Return VPT's number of prompts for a task of VTAB-1K, to pass to `PromptTuning`.

    For ViT-B these are the paper's numbers. For Swin-B only the mean sizes over the tasks are certain, 0.003 M
    (shallow) and 0.162 M (deep): on three tasks the printed shares do not match a whole number of prompts. So Swin-B
    has 23 prompts on every task (shallow), and 13 and 14 in turn (deep), which give these means.

    Args:
        task: A name of `tensorfact.lab.data.VTAB`.
        deep: Whether every block has its own prompts.
        family: "vit" for ViT-B/16, "swin" for Swin-B.

    Raises:
        DataError: The task or family is unknown, or `deep` is not a bool.

    Examples:
        >>> prompt_length("svhn", deep=True)
        50
    """
    for what, name, known in (("task", task, list(VTAB)), ("family", family, ["vit", "swin"])):
        one_of(name, known, f"prompt_length: {what}", DataError)
    flag(deep, "prompt_length: deep", DataError)
    if family == "swin":
        lengths = SWIN_DEEP if deep else SWIN_SHALLOW
        return lengths[list(VTAB).index(task) % len(lengths)]
    return PROMPT_LENGTHS[task][deep]

"""Hypothesis strategies for modes, tensors, ranks, formats that suit given modes, and plans of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from ..errors import FormatError
from ..formats import Format, Wrapper, available_formats, get_format
from ..formats.search import spelled_rank
from ..network import Mode, Side
from ..plan import TensorizationPlan, plan_by_shape
from ..plan.notation import mode_name

HIGHEST_RANK = 4
SIDES: tuple[Side, ...] = ("stack", "in", "out")


@st.composite
def modes(draw: st.DrawFn, least: int = 2, most: int = 5) -> tuple[Mode, ...]:
    """Draw the modes of a tensor, with any sides and sizes 1 to 5.

    Args:
        draw: Passed by hypothesis.
        least: Minimum number of modes.
        most: Maximum number of modes.
    """
    sides = draw(st.lists(st.sampled_from(SIDES), min_size=least, max_size=most))
    return tuple(Mode(f"m{k}", draw(st.integers(1, 5)), side) for k, side in enumerate(sides))


@st.composite
def tensors(draw: st.DrawFn, modes: Sequence[Mode]) -> Tensor:
    """Draw a dense fp64 tensor: random values of different magnitudes, or zero.

    Args:
        draw: Passed by hypothesis.
        modes: The tensor's modes.
    """
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    noise = torch.randn([mode.size for mode in modes], generator=generator, dtype=torch.float64)
    return noise * draw(st.sampled_from([1.0, 0.0, 1e-6, 1e4]))


@st.composite
def ranks(draw: st.DrawFn, limits: Sequence[int], highest: int = HIGHEST_RANK) -> int | tuple[int, ...]:
    """Draw one rank for all bonds, or one per bond.

    Args:
        draw: Passed by hypothesis.
        limits: The largest useful rank of every bond.
        highest: Maximum of all ranks.
    """
    if len(limits) < 2 or draw(st.booleans()):
        return draw(st.integers(1, min([highest, *limits])))
    return tuple(draw(st.integers(1, min(highest, limit))) for limit in limits)


def plain_kinds() -> tuple[type[Format], ...]:
    """Return the registered format classes that do not wrap another format.

    Examples:
        >>> "TensorTrain" in [kind.__name__ for kind in plain_kinds()]
        True
    """
    kinds = dict.fromkeys(map(get_format, available_formats()))
    return tuple(kind for kind in kinds if not issubclass(kind, Wrapper) and _smallest(kind) is not None)


@st.composite
def formats(draw: st.DrawFn, modes: Sequence[Mode], kinds: Sequence[type[Format]] | None = None) -> Format:
    """Draw a format that suits given modes.

    Args:
        draw: Passed by hypothesis.
        modes: The tensor's modes.
        kinds: The format classes to choose from; by default those of `plain_kinds`.

    Examples:
        >>> from hypothesis import given, settings, strategies as st
        >>> @settings(max_examples=10, deadline=None)
        ... @given(st.data())
        ... def test_a_count_is_positive(data):
        ...     drawn = data.draw(modes())
        ...     assert data.draw(formats(drawn)).num_parameters(drawn) > 0
        >>> test_a_count_is_positive()
    """
    smallest = {kind: _smallest(kind) for kind in (plain_kinds() if kinds is None else kinds)}
    kind = draw(st.sampled_from([kind for kind, format in smallest.items() if format and allows(format, modes)]))
    format = smallest[kind]
    assert format is not None
    if "rank" not in {field.name for field in dataclasses.fields(kind)}:
        return format
    rank = draw(ranks(_limits(format, modes)))
    found = format.with_rank(rank)
    return found if allows(found, modes) else format


def allows(format: Format, modes: Sequence[Mode]) -> bool:
    """Return whether a format has a network for given modes at its rank.

    Args:
        format: The format.
        modes: The tensor's modes.
    """
    try:
        format.network(modes)
    except FormatError:
        return False
    return True


@st.composite
def plans(draw: st.DrawFn, model: nn.Module) -> TensorizationPlan:
    """Draw a plan that groups parameters of equal shape, with the axes in a random arrangement.

    Args:
        draw: Passed by hypothesis.
        model: A model with at least two parameters of the same shape; it is not changed.
    """
    groups = plan_by_shape(model).groups
    kept = draw(st.sets(st.sampled_from(range(len(groups))), min_size=1))
    axes = {at: [axis for dim in groups[at].dims for axis in dim] for at in sorted(kept)}
    return TensorizationPlan(
        tuple(dataclasses.replace(groups[at], modes=draw(arrangements(names))) for at, names in axes.items())
    )


@st.composite
def arrangements(draw: st.DrawFn, axes: Sequence[str]) -> str:
    """Draw a modes string: the axes in random order, with random merges.

    Args:
        draw: Passed by hypothesis.
        axes: The names of the axes.
    """
    order = draw(st.permutations(axes))
    cuts = [draw(st.booleans()) for _ in order[1:]]
    runs: list[list[str]] = [[order[0]]]
    for axis, cut in zip(order[1:], cuts, strict=True):
        runs.append([axis]) if cut else runs[-1].append(axis)
    return " ".join(mode_name(tuple(run)) for run in runs)


def _smallest(kind: type[Format]) -> Format | None:
    """Return a format of a class, at rank 1 if it has a rank; None if it requires other options."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    needed = [name for name, field in fields.items() if _is_needed(field) and name != "rank"]
    return None if needed else kind(**({"rank": 1} if "rank" in fields else {}))


def _is_needed(field: dataclasses.Field[object]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _limits(format: Format, modes: Sequence[Mode]) -> tuple[int, ...]:
    """Return the highest rank of every bond, or one for all bonds if the format accepts only one."""
    try:
        highest = spelled_rank(format.with_rank("full").explicit(modes))
    except (FormatError, TypeError, ValueError):  # a format that accepts only an int as its rank
        return (max(rank for rank in range(1, HIGHEST_RANK + 1) if allows(format.with_rank(rank), modes)),)
    return highest if isinstance(highest, tuple) else (highest,)

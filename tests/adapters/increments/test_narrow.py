"""Rectangles of narrow matrices: products with them equal those with the dense matrix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tensorfact import Format
from tensorfact.adapters.increments.narrow import LEAST, MANY, Rectangles, outer_product, outer_product_, rectangles_of
from tensorfact.network import Core, Cut, Network, cuts
from tests.helpers import difference, infer
from tests.kernels import Kernels
from tests.layouts import KINDS, Layout, alike, gradients, merged, weights


@st.composite
def sided(draw: st.DrawFn) -> tuple[Cut, Sequence[str], Mapping[str, int], Mapping[str, Sequence[int]], bool, int]:
    """Draw a cut with two or three axes on one side, some positions of them kept, and perhaps one axis over blocks."""
    own = draw(st.permutations(["a", "b", "c"][: draw(st.integers(1, 3))]))
    sizes = {axis: draw(st.integers(1, 4)) for axis in own}
    kept = {axis: sorted(draw(st.sets(st.integers(0, size - 1), min_size=1))) for axis, size in sizes.items()}
    blocks = draw(st.sets(st.sampled_from(own)))
    inputs, rank = draw(st.booleans()), draw(st.integers(1, 3))
    near = Core("near", ("_r", *draw(st.permutations(own))))
    far = Core("far", (*sorted(blocks), "_r", "far"))
    counts = {axis: len(positions) for axis, positions in kept.items()}
    network = Network((near, far), (*own, "far"), {**counts, "_r": rank, "far": 2})
    cut = next(c for c in cuts(network, *((own, ["far"]) if inputs else (["far"], own))))
    return cut, own, sizes, kept, inputs, rank


def _dense(
    cut: Cut, axes: Sequence[str], sizes: Mapping[str, int], kept: Mapping[str, Sequence[int]], rank: int
) -> Iterator[tuple[int, int, int]]:
    """Return (row, column, feature of the layer) for every element of the matrix, one by one."""
    blocks, rest = list(cut.blocks), [axis for axis in axes if axis not in cut.blocks]
    places = [dict(zip(axes, each, strict=True)) for each in _grid([len(kept[a]) for a in axes])]
    for place in places:
        block, column, feature = 0, 0, 0
        for axis in blocks:
            block = block * len(kept[axis]) + place[axis]
        for axis in rest:
            column = column * len(kept[axis]) + place[axis]
        for axis in axes:
            feature = feature * sizes[axis] + kept[axis][place[axis]]
        for r in range(rank):
            yield block * rank + r, column, feature


def _grid(shape: Sequence[int]) -> list[list[int]]:
    return torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, len(shape)).tolist()


@given(sided())
def test_products_with_the_parts_are_those_with_the_dense_matrix(drawn: Any) -> None:
    cut, axes, sizes, kept, inputs, rank = drawn
    parts = rectangles_of(cut, axes, sizes, kept, inputs=inputs)
    places = list(_dense(cut, axes, sizes, kept, rank))
    rows: dict[int, list[int]] = {}
    for row, _, feature in sorted(place for place in places if not place[0] % rank):
        rows.setdefault(row, []).append(feature)
    runs = sum(1 + sum(b - a != 1 for a, b in itertools.pairwise(row)) for row in rows.values())
    assert (parts is None) == (runs > MANY)
    if parts is None:
        return
    features, columns = math.prod(sizes.values()), 1 + max(column for _, column, _ in places)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, h, matrix, y = random(5, features), random(5, cut.bond), random(cut.bond, columns), random(5, features)
    dense = torch.zeros(cut.bond, features, dtype=torch.float64)
    outer = torch.full_like(matrix, math.nan)
    for row, column, feature in places:
        dense[row, feature] = matrix[row, column]
        outer[row, column] = h[:, row] @ x[:, feature]
    assert difference(parts.added(y, h, matrix, -0.5), y - 0.5 * h @ dense) < 1e-12
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert difference(parts.project(x, matrix), x @ dense.t()) < 1e-12
            assert difference(parts.outer(h, x), outer) < 1e-12
    expected = y + h @ dense
    assert parts.add_(y, h, matrix) is y
    assert difference(y, expected) < 1e-12
    assert parts.whole == (len(set(places)) == cut.bond * features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tokens", [0, 1, 2 * LEAST - 1, 2 * LEAST, 2 * LEAST + 1, 3 * LEAST + 2, 400])
def test_the_sum_over_tokens_is_divided_among_threads(
    tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    generator = torch.Generator().manual_seed(0)
    h, x, found = (torch.randn(*s, generator=generator, dtype=dtype) for s in ((tokens, 6), (tokens, 9), (3, 9)))
    some = h[:, 1:4]  # columns of a wider matrix
    expected = some.double().t() @ x.double()
    with torch.no_grad(), Kernels() as kernels:
        outer, added = outer_product(some, x), outer_product_(found.clone(), some, x)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 0.05}[dtype]
    assert difference(outer.double(), expected) < tolerance or not tokens
    assert difference(added.double(), found.double() + expected) < tolerance
    assert (kernels.calls["bmm"] > 0) == (tokens >= 2 * LEAST and dtype != torch.bfloat16)


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_blocks_of_one_size_that_lie_beside_each_other_take_one_batched_product(tokens: int) -> None:
    """LoRA on a fused q, k, v: three up matrices, each of a third of the outputs."""
    cores = (Core("A", ("role", "in", "_r")), Core("B", ("role", "_r", "out")))
    network = Network(cores, ("in", "role", "out"), {"in": 6, "role": 3, "out": 4, "_r": 2})
    (cut,) = cuts(network, ("in",), ("role", "out"))
    sizes = {"role": 3, "out": 4}
    parts = rectangles_of(
        cut, ("role", "out"), sizes, {axis: range(size) for axis, size in sizes.items()}, inputs=False
    )
    assert parts is not None
    assert (parts.tiles, parts.whole) == (3, False)
    generator = torch.Generator().manual_seed(0)
    y, h, matrix = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((tokens, 12), (tokens, 6), (6, 4))
    )
    dense = torch.zeros(3, 2, 3, 4, dtype=torch.float64)
    for at in range(3):
        dense[at, :, at] = matrix.view(3, 2, 4)[at]
    outer = (h.t() @ y).view(3, 2, 3, 4)
    with torch.no_grad(), Kernels() as kernels:
        found = parts.project(y, matrix), parts.add_(y.clone(), h, matrix), parts.outer(h, y)
    expected = y @ dense.view(6, 12).t(), y + h @ dense.view(6, 12), outer[range(3), :, range(3)].view(6, 4)
    torch.testing.assert_close(found, expected)
    assert (kernels.calls["bmm"], kernels.calls["baddbmm_"]) == (2, 1)
    some = rectangles_of(cut, ("role", "out"), sizes, {"role": [0, 2], "out": range(4)}, inputs=False)
    assert some is not None
    assert some.tiles == 0  # q and v alone


@pytest.mark.parametrize("columns", [512, 640, 1024, 1000])
@pytest.mark.parametrize("grad", [True, False])
def test_the_gradient_of_a_wide_matrix_is_the_plain_product(columns: int, grad: bool) -> None:
    network = Network(
        (Core("A", ("in", "_r")), Core("B", ("_r", "out"))), ("in", "out"), {"in": columns, "_r": 3, "out": 2}
    )
    (cut,) = cuts(network, ("in",), ("out",))
    parts = rectangles_of(cut, ("in",), {"in": columns}, {"in": range(columns)}, inputs=True)
    assert parts is not None
    assert parts.whole
    generator = torch.Generator().manual_seed(0)
    h, x = (torch.randn(7, n, generator=generator, dtype=torch.float64) for n in (3, columns))
    for each in (x, x.t().contiguous().t(), x[:1].expand(7, -1), x[:, None].expand(7, 2, -1)[:, 1]):
        with torch.set_grad_enabled(grad):
            assert difference(parts.outer(h, each), torch.einsum("th,tx->hx", h, each)) < 1e-12


def interleaved(size: int) -> Rectangles | None:
    """Return the rectangles of outputs (out role) of which q and v are kept: runs of one, then of two."""
    sizes, kept = {"out": size, "role": 3}, {"out": range(size), "role": (0, 2)}
    network = Network(
        (Core("A", ("in", "_r")), Core("B", ("_r", "out", "role"))),
        ("out", "role", "in"),
        {"in": 4, "_r": 2, "out": size, "role": 2},
    )
    (cut,) = cuts(network, ("in",), ("out", "role"))
    return rectangles_of(cut, ("out", "role"), sizes, kept, inputs=False)


def test_a_matrix_in_many_parts_is_not_multiplied_part_by_part() -> None:
    few = interleaved(MANY - 1)
    assert few is not None
    assert [len(row) for row in few.rows] == [MANY]
    assert interleaved(MANY) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", ["(out role) in", "out (in role)"])
def test_a_layer_in_many_parts_is_right(pattern: str, kind: type[Format]) -> None:
    size = 20
    into, out = (size, 3 * size) if pattern.endswith(" in") else (3 * size, size)
    layout = Layout(lambda: nn.Linear(into, out), into, "layer role in out", pattern, role=["q", None, "v"])
    model, adapter = layout.adapted(kind)
    assert all(slot.increment.kind.halves is None for slot in adapter._slots.values())
    x = layout.input(2, 3)
    assert difference(model(x), merged(model, x)) < 1e-10
    assert difference(infer(model, x), merged(model, x)) < 1e-10
    other, _ = layout.adapted(kind, route="weight")
    output, expected = model(x), other(x)
    alike(gradients(model, output, weights(output)), gradients(other, expected, weights(expected)))

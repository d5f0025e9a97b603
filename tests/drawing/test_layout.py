"""Layout: arcs above their rows, nodes above their cores."""

from __future__ import annotations

from tensorfact import CP
from tensorfact.drawing.layout import NODE, arrange
from tensorfact.formats import TensorRing
from tensorfact.network import Mode
from tests.drawing.reading import IO, network


def test_a_ring_closes_above_its_row() -> None:
    layout = arrange(TensorRing(rank=4).network((Mode("layer", 12, "stack"), *IO)), {}, 1.0)
    arcs = [line for line in layout.lines if min(y for _, y in line.points) < -NODE / 2]
    assert len(arcs) == 1


def test_arcs_over_each_other_have_heights_of_their_own() -> None:
    layout = arrange(network("A[in a b c] B[x d] C[y a d] D[z b] E[out c]", "in x y z out"), {}, 1.0)
    heights = {line.points[1][1] for line in layout.lines if len(line.points) == 4}
    assert len(heights) == 3


def test_what_is_nearly_above_its_core_is_right_above() -> None:
    modes = (Mode("in", 8, "in"), Mode("layer", 12, "stack"), Mode("outputs", 768, "out"))
    layout = arrange(CP(rank=4).network(modes), {}, 1.0)
    assert layout.rows[1][0].x == layout.rows[0][1].x

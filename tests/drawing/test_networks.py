"""Pictures of networks: every name once, nothing overlaps, nothing leaves the picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorfact import CP, TensorTrain, Tucker
from tensorfact.drawing.layout import NODE, Item, Line, arrange
from tensorfact.drawing.networks import draw_tensor, network_diagram
from tensorfact.drawing.svg import Canvas
from tensorfact.formats import TensorRing
from tensorfact.network import Core, Mode, Network
from tests import strategies
from tests.drawing.reading import IO, check, elements, network, nodes, parse, shapes, text_boxes, texts


def modes_of(network: Network) -> tuple[Mode, ...]:
    """Return modes of any sides for the open legs of a network."""
    sides = strategies.SIDES
    return tuple(Mode(leg, network.sizes[leg], sides[k % 3]) for k, leg in enumerate(network.output))


def check_network(network: Network, modes: Sequence[Mode]) -> None:
    """Check the properties of every picture of a network."""
    picture = network_diagram(network, modes)
    assert picture == network_diagram(network, modes)
    root = check(picture)
    written = texts(picture)
    for core in network.cores:
        assert written.count(core.name) == 1
    for mode in modes:
        assert written.count(f"{mode.name} {mode.size}") == 1
    drawn = nodes(root)
    assert len(drawn) == len(network.cores)
    places = shapes(root)[: len(drawn)]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(places, 2))
    names = {core.name for core in network.cores}
    for text, box in zip(written, text_boxes(root), strict=True):
        assert text in names or not any(box.overlaps(place) for place in places)
    assert ("hollow: starts at zero" in written) == any(core.start == "zero" for core in network.cores)
    assert ("dashed: frozen" in written) == (not all(core.trained for core in network.cores))


def check_lines(network: Network) -> None:
    """Check that no line passes through a node that it does not join."""
    layout = arrange(network, {}, 1.0)
    drawn = zip(layout.bonds, layout.lines, strict=True)
    joined: list[tuple[tuple[Item, ...], Line]] = [((bond.first, bond.second), line) for bond, line in drawn]
    strokes = [(own, pair) for own, line in joined for pair in itertools.pairwise(line.points)]
    strokes += [(end.held, pair) for end in layout.ends for pair in layout.strokes(end)]
    for own, stroke in strokes:
        for item in layout.items:
            assert item in own or not item.box(-0.15 * item.height).meets(*stroke), (item.name, stroke)


KNOWN = {
    "LoHa": network("w1b[out _1] w1a[_1 in] w2b[out _2] w2a[_2 in]", "in out", "w2b"),
    "Kronecker": network("W1[layer l m] W2[layer k n]", "layer l k m n", "W2"),
    "VeRA": network("b[stack out] B[out _r] d[stack _r] A[_r in]", "stack out in", "b", "A B"),
    "Monarch": network("W1[k q p] W2[q s k]", "k p q s", "W2"),
    "QuanTA": network("T1[e f b c] T2[d i a f] T3[g h d e]", "a b c g h i", "T3"),
    "weighted CP": network("w[_r] U1[in _r] U2[layer _r] U3[out _r]", "in layer out", "U3", "w"),
    "tree": network("R[a b] L[a c d] Q[b e f] U1[in c] U2[layer d] U3[x e] U4[out f]", "in layer x out", "U4"),
    "scalar": network("A[a b] B[b c] C[c a]", ""),
    "apart": network("A[in] B[out]", "in out"),
    "bonds": network("A[in x y z] B[x y z out]", "in out", "B"),
    "summed": network("A[in x]", "in"),
    "single": network("W[in out]", "in out"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_networks(name: str) -> None:
    check_network(KNOWN[name], modes_of(KNOWN[name]))
    check_lines(KNOWN[name])


@settings(max_examples=60)
@given(strategies.networks())
def test_any_network(network: Network) -> None:
    check_network(network, modes_of(network))
    check_lines(network)


@settings(max_examples=40)
@given(st.data())
def test_any_format(data: st.DataObject) -> None:
    modes = data.draw(strategies.modes(least=1, most=6))
    network = data.draw(strategies.formats(modes)).network(modes)
    check_network(network, modes)
    check_lines(network)


def test_a_long_chain_and_a_wide_star() -> None:
    modes = tuple(Mode(f"mode{k}", 2, "stack") for k in range(12))
    for format in (TensorTrain(rank=2), TensorRing(rank=2), Tucker(rank=2), CP(rank=2)):
        check_network(format.network(modes), modes)
        check_lines(format.network(modes))


def test_sides_and_states_have_their_classes() -> None:
    modes = (Mode("layer", 12, "stack"), *IO)
    picture = network_diagram(CP(rank=4).network(modes).started({}, frozen=["U1"]), modes, "CP")
    root = parse(picture)
    assert [each.get("class") for each in nodes(root)] == ["tf-frozen", "tf-node", "tf-node tf-hollow"]
    styles = {each.text: each.get("class", "") for each in elements(root, "text")}
    assert "tf-in-fill" in styles["in 768"]
    assert "tf-stack-fill" in styles["layer 12"]
    assert "CP" in styles
    assert len(elements(root, "circle")) == 1
    assert {"inputs", "outputs", "stack", "dashed: frozen"} <= set(styles)


def test_names_are_escaped() -> None:
    core, leg, title = 'A<&"', 'x<&">', 'a < b & "c"'
    picture = network_diagram(Network((Core(core, (leg,)),), (leg,), {leg: 3}), [Mode(leg, 3, "in")], title)
    check(picture)
    assert {core, f"{leg} 3", title} <= set(texts(picture))
    assert "A<" not in picture
    assert parse(picture).get("aria-label") == title


def test_a_tensor_has_a_leg_for_each_mode() -> None:
    canvas = Canvas()
    box = draw_tensor(canvas, 100, 50, "W", IO)
    assert texts(canvas.svg("W")) == ["in 768", "out 768", "W"]
    check(canvas.svg("W"))
    assert box.left < 100 < box.right
    assert box.top == 50 - NODE / 2

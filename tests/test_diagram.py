"""Pictures of networks and plans: every name once, nothing overlaps, nothing leaves the picture."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorfact import CP, Group, Rule, TensorizationPlan, TensorTrain, Tucker, plan_by_shape, plan_for
from tensorfact.drawing.layout import NODE, Item, Line, arrange
from tensorfact.drawing.networks import draw_tensor, network_diagram
from tensorfact.drawing.plans import plan_diagram
from tensorfact.drawing.svg import Box, Canvas, apart, text_box, text_width
from tensorfact.formats import TensorRing
from tensorfact.lab import nano
from tensorfact.network import Core, Mode, Network
from tensorfact.plan import ResolvedPlan

from . import strategies

NAMESPACE = "{http://www.w3.org/2000/svg}"
IO = (Mode("in", 768, "in"), Mode("out", 768, "out"))


def parse(picture: str) -> ElementTree.Element:
    """Return the root of a picture, which must be well-formed."""
    return ElementTree.fromstring(picture)


def elements(root: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return list(root.iter(NAMESPACE + tag))


def texts(picture: str) -> list[str]:
    return [each.text or "" for each in elements(parse(picture), "text")]


def text_boxes(root: ElementTree.Element) -> list[Box]:
    """Return where the texts are, by their estimated widths."""
    boxes = []
    for each in elements(root, "text"):
        x, y, size = (float(each.get(key, "nan")) for key in ("x", "y", "font-size"))
        box = text_box(x, y - 0.35 * size, each.text or "", size, each.get("text-anchor", ""))
        if each.get("transform"):  # by a quarter about the anchor
            box = Box(x + box.top - y, y - box.right + x, x + box.bottom - y, y - box.left + x)
        boxes.append(box)
    return boxes


def shapes(root: ElementTree.Element) -> list[Box]:
    """Return the boxes of all nodes, dots, cells and lines."""
    found = [
        Box(x, y, x + width, y + height)
        for each in elements(root, "rect")
        for x, y, width, height in [[float(each.get(key, "nan")) for key in ("x", "y", "width", "height")]]
    ]
    for each in elements(root, "circle"):
        x, y, r = (float(each.get(key, "nan")) for key in ("cx", "cy", "r"))
        found.append(Box.around(x, y, 2 * r, 2 * r))
    for each in elements(root, "path"):
        pairs = re.findall(r"(-?[\d.]+) (-?[\d.]+)", each.get("d", ""))
        found += [Box.around(float(x), float(y), 0, 0) for x, y in pairs]
    return found


def nodes(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [each for each in elements(root, "rect") if each.get("class") != "tf-cell"]


def check(picture: str) -> ElementTree.Element:
    """Check what holds for every picture."""
    root = parse(picture)
    assert root.get("role") == "img"
    assert (elements(root, "title")[0].text or "").strip()
    left, top, width, height = map(float, root.get("viewBox", "").split())
    written = text_boxes(root)
    for box in (*written, *shapes(root)):
        assert left <= box.left <= box.right <= left + width
        assert top <= box.top <= box.bottom <= top + height
    for one, other in itertools.combinations(written, 2):
        assert not one.overlaps(other)
    return root


def modes_of(network: Network) -> tuple[Mode, ...]:
    """Return modes of any sides for the open legs of a network."""
    sides = strategies.SIDES
    return tuple(Mode(leg, network.sizes[leg], sides[k % 3]) for k, leg in enumerate(network.output))


def check_network(network: Network, modes: Sequence[Mode]) -> None:
    """Check what holds for every picture of a network."""
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


def network(text: str, output: str, zero: str = "", frozen: str = "") -> Network:
    """Return a network written as `A[in r] B[r out]`."""
    cores = [Core(name, tuple(legs.split())) for name, legs in re.findall(r"(\S+)\[(.*?)\]", text)]
    sizes = {leg: 8 * (len(leg) + 1) for core in cores for leg in core.legs}
    starts = {zero: "zero"} if zero else {}
    return Network(tuple(cores), tuple(output.split()), sizes).started(starts, frozen.split())


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


def test_names_are_escaped() -> None:
    core, leg, title = 'A<&"', 'x<&">', 'a < b & "c"'
    picture = network_diagram(Network((Core(core, (leg,)),), (leg,), {leg: 3}), [Mode(leg, 3, "in")], title)
    check(picture)
    assert {core, f"{leg} 3", title} <= set(texts(picture))
    assert "A<" not in picture
    assert parse(picture).get("aria-label") == title


def test_what_xml_cannot_hold_is_replaced() -> None:
    canvas = Canvas()
    canvas.text(0, 0, "a\x00b\ud800")
    assert texts(canvas.svg("\x01"))[0] == "a\ufffdb\ufffd"


def test_a_tensor_has_a_leg_for_each_mode() -> None:
    canvas = Canvas()
    box = draw_tensor(canvas, 100, 50, "W", IO)
    assert texts(canvas.svg("W")) == ["in 768", "out 768", "W"]
    check(canvas.svg("W"))
    assert box.left < 100 < box.right
    assert box.top == 50 - NODE / 2


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 30)), min_size=1, max_size=8))
def test_things_moved_apart_keep_their_order_and_balance(things: list[tuple[int, int]]) -> None:
    wanted, widths = [x for x, _ in things], [width for _, width in things]
    placed = apart(wanted, widths, 2.0)
    assert sum(placed) == pytest.approx(sum(wanted), abs=1e-6)
    order = sorted(range(len(things)), key=lambda at: (wanted[at], at))
    for left, right in itertools.pairwise(order):
        assert placed[right] - placed[left] >= (widths[left] + widths[right]) / 2 + 2 - 1e-6


def test_a_text_is_as_wide_as_its_letters() -> None:
    assert text_width("ab", 20) == pytest.approx(2 * text_width("ab", 10))
    assert text_width("") == 0


# -------------------------------------------------------------------------------------------------------------- plans


def cells(picture: str) -> list[ElementTree.Element]:
    return [each for each in elements(parse(picture), "rect") if each.get("class") == "tf-cell"]


def test_the_plan_of_nano() -> None:
    model = nano(pretrained=False)
    picture = plan_diagram(plan_for(model).resolve(model))
    check(picture)
    written, drawn = texts(picture), cells(picture)
    assert len(drawn) == 6 * 12 + 4  # slices, and the key
    assert len({each.get("fill") for each in drawn}) == 4
    for text in ("encoder", "(layer role) 72", "in 96", "out 96", "layer", "role", "down3"):
        assert written.count(text) == 1
    assert "blocks.{layer}.mlp.fc2.weight" in written
    assert "out (role in)" in written


def test_the_plan_of_a_swin_has_a_tensor_a_stage_and_one_key() -> None:
    with torch.device("meta"):
        model = timm.create_model("swin_tiny_patch4_window7_224", depths=(2, 2, 20, 2))
    picture = plan_diagram(plan_for(model).resolve(model))
    root, written = check(picture), texts(picture)
    assert len(nodes(root)) == 4
    assert [f"stages[{k}]" for k in range(4)] == [text for text in written if text.startswith("stages")]
    assert written.count("\N{VERTICAL ELLIPSIS}") == 1
    assert written.count("layers.{stage}.blocks.{layer}.attn.qkv.weight") == 1
    assert len(cells(picture)) == (2 + 2 + 15 + 2) * 12 + 4


def test_plans_without_with_one_and_with_many_stack_axes() -> None:
    model = nano(pretrained=False)
    fused = Rule("blocks.{layer}.attn.qkv.weight", "(role head out) in", role=["q", None, "v"], head=list(range(3)))
    digits = {"role": ["q", "k", "v"], "head": list(range(12))}
    groups = {
        "none": Group("none", "out in", (Rule("head.weight", "out in"),)),
        "one": Group("one", "(layer out) in", (Rule("blocks.{layer}.mlp.fc1.weight", "out in"),)),
        "many": Group("many", "layer role head in out", (fused,)),
        "wide": Group(
            "wide",
            "layer role head in out",
            (Rule(fused.param, fused.pattern, **digits),),  # type: ignore[arg-type]
        ),
    }
    expected = {"none": 1, "one": 6, "many": 6 * 2 * 3, "wide": 6 * 23}
    for name, group in groups.items():
        picture = plan_diagram(TensorizationPlan((group,)).resolve(model))
        check(picture)
        assert len(cells(picture)) == expected[name] + 1, name


def test_a_slice_that_rules_share_is_split_between_their_colours() -> None:
    model = nano(pretrained=False)
    rules = (
        Rule("blocks.{layer}.attn.qkv.weight", "(role out) in", role=["q", None, "v"], kind="qkv"),
        Rule("blocks.{layer}.attn.proj.weight", "out in", role="v", kind="o"),
    )
    plan = TensorizationPlan((Group("tied", "role in out", rules, tied="layer kind"),))
    picture = plan_diagram(plan.resolve(model))
    check(picture)
    assert len(cells(picture)) == 1 + 2 + 2


def test_slices_that_no_parameter_fills_are_left_out() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet18")
    resolved = plan_by_shape(model).resolve(model)
    picture = plan_diagram(resolved)
    check(picture)
    rules = {view.rule for tensor in resolved.tensors for view in tensor.views}
    assert len(cells(picture)) == sum(len(tensor.views) for tensor in resolved.tensors) + len(rules)


@settings(max_examples=25)
@given(strategies.cases())
def test_any_plan(case: strategies.Case) -> None:
    resolved = case.resolve()
    picture = plan_diagram(resolved)
    assert picture == plan_diagram(resolved)
    assert len(nodes(check(picture))) == len(resolved.tensors)


def test_an_empty_plan_is_an_empty_picture() -> None:
    check(plan_diagram(ResolvedPlan(())))

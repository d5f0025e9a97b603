"""Hypothesis strategies beside those of `tensorfact.testing`: formats by limits of the tests' own, plans over a small
model of every kind of layer, and whole adaptations.

What is drawn is plain data; models are built in the test from it, so that a failing example prints what matters.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from tensorfact import CP, Adapter, Format, Group, MatrixBatch, Rule, TensorizationPlan, TensorTrain, Tucker, adapt
from tensorfact.formats import Each, Gates, TensorRing
from tensorfact.network import Core, Mode, Network
from tensorfact.plan import ResolvedPlan
from tensorfact.plan.notation import mode_name
from tensorfact.testing import arrangements, modes, plain_kinds, ranks, tensors
from tensorfact.testing import formats as any_formats
from tensorfact.testing.strategies import HIGHEST_RANK, SIDES
from tests import helpers

__all__ = ["SIDES", "arrangements", "modes", "tensors"]

FORMATS: tuple[type[Format], ...] = (TensorTrain, TensorRing, Tucker, CP, MatrixBatch)
EXACT: list[type[Format]] = [TensorTrain, Tucker, MatrixBatch]


# ---------------------------------------------------------------------------------------------------- modes, formats


def chain(modes: Sequence[Mode], order: Sequence[str] | None) -> list[Mode]:
    """Return the modes along a tensor-train: in the given order, else inputs, stacks, outputs."""
    if order is not None:
        return sorted(modes, key=lambda mode: order.index(mode.name))
    return sorted(modes, key=lambda mode: ("in", "stack", "out").index(mode.side))


def train_limits(modes: Sequence[Mode], order: Sequence[str] | None = None) -> list[int]:
    """Return the highest useful rank of every bond of a tensor-train."""
    sizes = [mode.size for mode in chain(modes, order)]
    return [min(math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(1, len(sizes))]


def ring_limits(modes: Sequence[Mode]) -> list[int]:
    """Return the highest useful rank of every bond of a tensor ring, the closing one last."""
    limits = train_limits(modes)
    return [*limits, limits[0]] if limits else []


def matrix_limit(modes: Sequence[Mode]) -> int:
    """Return the highest rank of the matrix between inputs and outputs."""
    inputs, outputs = (math.prod(m.size for m in modes if m.side == side) for side in ("in", "out"))
    return min(inputs, outputs)


def terms_limit(modes: Sequence[Mode]) -> int:
    """Return the number of rank-one terms that is always enough."""
    return math.prod(mode.size for mode in modes) // max(mode.size for mode in modes)


def full_rank(kind: type[Format], modes: Sequence[Mode], order: tuple[str, ...] | None = None) -> Format:
    """Return a format of this kind that holds every tensor exactly."""
    if kind is TensorTrain:
        return TensorTrain(tuple(train_limits(modes, order)) or 1, order)
    if kind is TensorRing:
        return TensorRing(tuple(ring_limits(modes)) or 1)
    if kind is Tucker:
        return Tucker(tuple(mode.size for mode in modes))
    return CP(terms_limit(modes)) if kind is CP else MatrixBatch(matrix_limit(modes))


@st.composite
def tensor_trains(draw: st.DrawFn, modes: Sequence[Mode]) -> TensorTrain:
    """Draw a tensor-train, with one rank or one a bond, along the default chain or another."""
    order = draw(st.none() | st.permutations([mode.name for mode in modes]).map(tuple))
    limits = train_limits(modes, order)
    if not limits or draw(st.booleans()):
        return TensorTrain(draw(st.integers(1, min([HIGHEST_RANK, *limits]))), order)
    ranks: list[int] = []
    for mode, limit in zip(chain(modes, order), limits, strict=False):
        # A bond wider than what comes before it holds nothing more; see test_formats for such ranks.
        reach = (ranks[-1] if ranks else 1) * mode.size
        ranks.append(draw(st.integers(1, min(HIGHEST_RANK, limit, reach))))
    return TensorTrain(tuple(ranks), order)


@st.composite
def tuckers(draw: st.DrawFn, modes: Sequence[Mode]) -> Tucker:
    """Draw a Tucker format, with one rank or one a mode."""
    if draw(st.booleans()):
        return Tucker(draw(st.integers(1, min(HIGHEST_RANK, *(mode.size for mode in modes)))))
    ranks = [draw(st.integers(1, min(HIGHEST_RANK, mode.size))) for mode in modes]
    for at in sorted(range(len(ranks)), key=lambda at: -ranks[at]):
        # A rank above the product of the others holds nothing more; see test_formats for such ranks.
        ranks[at] = min(ranks[at], math.prod(ranks) // ranks[at])
    return Tucker(tuple(ranks) if len(ranks) > 1 else 1)


@st.composite
def formats(draw: st.DrawFn, modes: Sequence[Mode], kinds: Sequence[type[Format]] = FORMATS) -> Format:
    """Draw a format that these modes allow."""
    kind = draw(st.sampled_from(kinds))
    if kind is TensorTrain:
        return draw(tensor_trains(modes))
    if kind is TensorRing:
        return TensorRing(draw(ranks(ring_limits(modes))))
    if kind is Tucker:
        return draw(tuckers(modes))
    limit = terms_limit(modes) if kind is CP else matrix_limit(modes)
    return kind(draw(st.integers(1, min(HIGHEST_RANK, limit))))  # type: ignore[call-arg]


# ------------------------------------------------------------------------------------------------------ models, plans


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of a `Tiny`, and whether its fused weight is read instead of called."""

    width: int
    heads: int
    ratio: int
    depth: int
    read: bool

    def build(self) -> nn.Module:
        """Return the model, untrained, in evaluation mode."""
        return helpers.Tiny(self.width, self.heads, self.ratio, self.depth, read=self.read).eval()


@st.composite
def sizes(draw: st.DrawFn) -> Sizes:
    """Draw the sizes of a model."""
    width, heads = draw(st.sampled_from([(4, 2), (6, 3), (6, 2)]))
    return Sizes(width, heads, draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.booleans()))


@st.composite
def _dimensions(draw: st.DrawFn, axes: Sequence[str]) -> str:
    return mode_name(tuple(draw(st.permutations(axes))))


@st.composite
def _labels(draw: st.DrawFn, labels: Sequence[str], trainable: Sequence[str] | None = None) -> list[str | None]:
    """Draw a coordinate list with frozen slots anywhere, at least one of the trainable labels left."""
    allowed = list(trainable or labels)
    kept = draw(st.sets(st.sampled_from(allowed), min_size=1))
    return [label if label in kept else None for label in labels]


@dataclasses.dataclass(frozen=True)
class _Digits:
    """How the width of a layer splits: into `out` alone, or into (head, dim) in some order."""

    out: tuple[str, ...]
    into: tuple[str, ...]
    sizes: Mapping[str, int]


@st.composite
def _digits(draw: st.DrawFn, shape: Sizes) -> _Digits:
    out: tuple[str, ...] = draw(st.sampled_from([("out",), ("head", "dim"), ("dim", "head")]))
    into: tuple[str, ...] = draw(st.sampled_from([("in",), ("block", "offset")]))
    sizes = {"head": shape.heads} if "head" in out else {}
    return _Digits(out, into, sizes | ({"block": 2} if "block" in into else {}))


@st.composite
def _attention(draw: st.DrawFn, shape: Sizes) -> Group:
    digits = draw(_digits(shape))
    inputs = mode_name(digits.into)
    fused = draw(_dimensions(["role", *digits.out])) + " " + inputs
    rules = [Rule("blocks.{layer}.qkv.weight", fused, role=draw(_labels(draw(st.permutations("qkv")))))]
    if draw(st.booleans()):
        straight, transposed = f"{mode_name(digits.out)} {inputs}", f"{inputs} {mode_name(digits.out)}"
        rules += [Rule("blocks.{layer}.proj.weight", draw(st.sampled_from([straight, transposed])), role="o")]
    axes = ["layer", "role", *digits.out, *digits.into]
    partition = "layer" if draw(st.booleans()) else None
    axes.remove("layer") if partition else None
    return Group("attention", draw(arrangements(axes)), tuple(rules), partition, digits.sizes)


@st.composite
def _tied(draw: st.DrawFn, shape: Sizes) -> Group:
    rules = [Rule("blocks.{layer}.qkv.weight", "(role out) in", role=draw(_labels(["q", "k", "v"])), kind="qkv")]
    if draw(st.booleans()):  # a whole weight shares a slice with a part of another
        rules += [Rule("blocks.{layer}.proj.weight", "out in", role=draw(st.sampled_from("oqv")), kind="proj")]
    return Group("tied", draw(arrangements(["role", "in", "out"])), tuple(rules), tied="layer kind")


@st.composite
def _sized(draw: st.DrawFn, shape: Sizes) -> Group:
    patterns = draw(st.sampled_from([("out in", "out in"), ("out in", "in out")]))
    rules = [Rule(f"blocks.{{layer}}.fc{n}.weight", patterns[n - 1], role=f"fc{n}") for n in (1, 2)]
    modes = draw(st.sampled_from(["(layer role) in out", "out (layer role) in", "in (role layer out)"]))
    return Group("sized", modes, tuple(rules), draw(st.sampled_from(["in out", "out", "in"])))


@st.composite
def _mlp(draw: st.DrawFn, shape: Sizes) -> Group:
    if draw(st.booleans()):  # the wide dimension stays whole: fc2 is a transposed slice
        rules = [
            Rule("blocks.{layer}.fc1.weight", "hid in", role="up"),
            Rule("blocks.{layer}.fc2.weight", "in hid", role="down"),
        ]
        return Group("mlp", draw(arrangements(["layer", "role", "hid", "in"])), tuple(rules))
    up, down = ([f"{name}{k}" for k in range(shape.ratio)] for name in ("up", "down"))
    rules = [
        Rule("blocks.{layer}.fc1.weight", draw(_dimensions(["role", "out"])) + " in", role=draw(_labels(up))),
        Rule("blocks.{layer}.fc2.weight", "out " + draw(_dimensions(["role", "in"])), role=draw(_labels(down))),
    ]
    return Group("mlp", draw(arrangements(["layer", "role", "in", "out"])), tuple(rules))


@st.composite
def _mha(draw: st.DrawFn, shape: Sizes) -> Group:
    rules = [Rule("blocks.{layer}.mha.in_proj_weight", "(role out) in", role=draw(_labels(["q", "k", "v"])))]
    if draw(st.booleans()):
        rules += [Rule("blocks.{layer}.mha.out_proj.weight", "out in", role="o")]
    return Group("mha", draw(arrangements(["layer", "role", "in", "out"])), tuple(rules))


@st.composite
def _point(draw: st.DrawFn, shape: Sizes) -> Group:
    rule = Rule("blocks.{layer}.point.weight", "out in 1 1")
    return Group("point", draw(arrangements(["layer", "in", "out"])), (rule,))


@st.composite
def _conv(draw: st.DrawFn, shape: Sizes) -> Group:
    rule = Rule("blocks.{layer}.conv.weight", "out in kh kw")
    return Group("conv", draw(arrangements(["layer", "in", "out", "kh", "kw"])), (rule,))


@st.composite
def _biases(draw: st.DrawFn, shape: Sizes) -> Group:
    # The bias of k shifts every score of a query alike, so it has no gradient: it stays frozen.
    labels = draw(_labels(["q", "k", "v"], trainable=["q", "v"]))
    rules = [
        Rule("blocks.{layer}.qkv.bias", "(role out)", role=labels),
        Rule("blocks.{layer}.norm.weight", "out", role="norm"),
    ]
    return Group("biases", draw(arrangements(["layer", "role", "out"])), tuple(rules))


@st.composite
def _embedding(draw: st.DrawFn, shape: Sizes) -> Group:
    return Group("embedding", draw(arrangements(["token", "in"])), (Rule("embed.weight", "token in"),))


CALLED: dict[str, Callable[[Sizes], st.SearchStrategy[Group]]] = {
    "attention": lambda shape: _attention(shape) | _tied(shape),
    "mlp": lambda shape: _mlp(shape) | _sized(shape),
}
"""Groups whose every parameter is the weight of a linear layer."""

OTHERS: dict[str, Callable[[Sizes], st.SearchStrategy[Group]]] = {
    "mha": _mha,
    "point": _point,
    "conv": _conv,
    "biases": _biases,
    "embedding": _embedding,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and a plan over it."""

    sizes: Sizes
    plan: TensorizationPlan

    def build(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
        """Return the model with random weights, frozen.

        Frozen as `adapt` freezes it: torch folds some products differently where a weight requires gradients (in
        `nn.MultiheadAttention`), so that a trainable and a frozen model may differ in the last bit.
        """
        return helpers.randomise(self.sizes.build(), seed).to(dtype).requires_grad_(False)

    def resolve(self) -> ResolvedPlan:
        """Return the resolved plan, without a number allocated."""
        with torch.device("meta"):
            return self.plan.resolve(self.sizes.build())


@st.composite
def cases(draw: st.DrawFn, *, called: bool = False) -> Case:
    """Draw a model and a plan of one to three groups; `called` keeps to weights of linear layers."""
    shape, kinds = draw(sizes()), CALLED if called else CALLED | OTHERS
    names = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=3, unique=True))
    return Case(shape, TensorizationPlan(tuple(draw(kinds[name](shape)) for name in names)))


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """A model, a plan, and a format for every tensor."""

    case: Case
    formats: Mapping[str, Format]
    scale: float

    def fresh(self, dtype: torch.dtype = torch.float32, *, seed: int = 0, **options: Any) -> tuple[nn.Module, Adapter]:
        """Return the model, adapted with fresh factors."""
        model = self.case.build(dtype)
        options = {"scale": self.scale, "train_head": False, "seed": seed, **options}
        return model, adapt(model, self.case.plan, self.formats, **options)

    def drawn(self, dtype: torch.dtype = torch.float32, *, seed: int = 0, **options: Any) -> tuple[nn.Module, Adapter]:
        """Return the model, adapted with factors that change its output."""
        model, adapter = self.fresh(dtype, **options)
        helpers.draw(adapter, seed)
        return model, adapter


def _of(modes: Sequence[Mode], kinds: Sequence[type[Format]] | None) -> st.SearchStrategy[Format]:
    if kinds is not None:
        return formats(modes, kinds)
    drawn = formats(modes) | any_formats(modes, [kind for kind in plain_kinds() if kind is not Gates])
    if all(mode.side == "stack" for mode in modes):
        return drawn
    return drawn | any_formats([mode for mode in modes if mode.side != "stack"], FORMATS).map(Each)


@st.composite
def adaptations(draw: st.DrawFn, *, called: bool = False, kinds: Sequence[type[Format]] | None = None) -> Adaptation:
    """Draw a model, a plan over it, formats that its tensors allow, and a scale; any format that starts at zero."""
    case = draw(cases(called=called))
    chosen = {tensor.name: draw(_of(tensor.modes, kinds)) for tensor in case.resolve().tensors}
    return Adaptation(case, chosen, draw(st.sampled_from([1.0, -0.5, 4.0])))


# ----------------------------------------------------------------------------------------------------------- networks


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Draw any valid einsum of one to five cores: legs repeat at will, some stay open."""
    legs = "abcdef"
    held = draw(st.lists(st.sets(st.sampled_from(legs), min_size=1, max_size=3), min_size=1, max_size=5))
    cores = tuple(Core(f"c{k}", tuple(draw(st.permutations(sorted(each))))) for k, each in enumerate(held))
    used = sorted(set(itertools.chain.from_iterable(held)))
    output = draw(st.permutations(sorted(draw(st.sets(st.sampled_from(used))))))
    return Network(cores, tuple(output), {leg: draw(st.integers(1, 4)) for leg in used})

"""Functions that return parts and folds that several families have."""

from __future__ import annotations

from ...common.aliases import Options
from .family import Block, Fold, Heads, Part

STACK = "(layer role) in out"
STAGES = "(stage layer role) in out"
SHAPES = "in out"

RATIO = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
_SMALL = {**RATIO, "intermediate_size": 128}
IMAGE = {**_SMALL, "image_size": 32, "patch_size": 8}
TEXT = {**_SMALL, "vocab_size": 64}
"""transformers' options for a small model whose MLP is four times as wide, one of images, and one of text."""


def fused(
    param: str,
    pattern: str = "(role out) in",
    *,
    roles: tuple[str, ...] = ("q", "k", "v"),
    optional: bool = False,
) -> Part:
    """Return q, k and v as one parameter."""
    return Part("attention", param, pattern, roles, optional)


def fused_by_heads(param: str, heads: Heads, pattern: str = "(head role dim) in") -> Part:
    """Return q, k and v as one parameter, in which they alternate by head or differ in size."""
    return Part("attention", param, pattern, ("q", "k", "v"), heads=heads)


def single(
    param: str, role: str, pattern: str = "out in", *, block: Block = "attention", optional: bool = False
) -> Part:
    """Return one matrix with a role of its own."""
    return Part(block, param, pattern, role, optional)


def split(prefix: str, *names: str, before: str = "", optional: bool = False) -> tuple[Part, ...]:
    """Return q, k, v and, if a fourth name is given, o as separate layers; `before` is put before each role."""
    return tuple(
        single(f"{prefix}.{name}.weight", f"{before}{role}", optional=optional)
        for name, role in zip(names, "qkvo"[: len(names)], strict=True)
    )


def up(param: str, *roles: str, pattern: str = "(role out) in", optional: bool = False, block: Block = "mlp") -> Part:
    """Return a matrix from the model's width to a wider one; several roles lie in it one after the other."""
    return Part(block, f"{param}.weight", pattern, tuple(f"{role}*" for role in roles or ("up",)), optional)


def down(
    param: str, role: str = "down", *, pattern: str = "out (role in)", optional: bool = False, block: Block = "mlp"
) -> Part:
    """Return a matrix back to the model's width."""
    return Part(block, f"{param}.weight", pattern, (f"{role}*",), optional)


def mlp(prefix: str, first: str = "fc1", second: str = "fc2", *, optional: bool = False) -> tuple[Part, ...]:
    """Return the two layers of an MLP."""
    return (up(f"{prefix}.{first}", optional=optional), down(f"{prefix}.{second}", optional=optional))


def gated(prefix: str, *, optional: bool = False) -> tuple[Part, ...]:
    """Return the three layers of a gated MLP, as transformers names them."""
    return (
        up(f"{prefix}.gate_proj", "gate", optional=optional),
        up(f"{prefix}.up_proj", optional=optional),
        down(f"{prefix}.down_proj", optional=optional),
    )


def block(prefix: str) -> tuple[Part, ...]:
    """Return timm's transformer block with a fused qkv."""
    attention = (fused(f"{prefix}.attn.qkv.weight"), single(f"{prefix}.attn.proj.weight", "o"))
    return (*attention, *mlp(f"{prefix}.mlp"))


def class_block(prefix: str) -> tuple[Part, ...]:
    """Return timm's block in which only the class token attends."""
    return (*split(f"{prefix}.attn", "q", "k", "v", "proj"), *mlp(f"{prefix}.mlp"))


def mbconv(prefix: str, expand: str, project: str) -> Fold:
    """Return the two 1 x 1 convolutions of an inverted bottleneck, one tensor per pair of widths."""
    parts = (
        single(f"{prefix}.{expand}.weight", "expand", "hid in", block="conv"),
        single(f"{prefix}.{project}.weight", "project", "in hid", block="conv"),
    )
    return Fold("convs", "(stage layer role) in hid", parts, "in hid")


def depthwise(prefix: str, *names: str) -> Fold:
    """Return depthwise kernels, one tensor per shape."""
    parts = tuple(single(f"{prefix}.{n}.weight", n, "out 1 kh kw", block="depthwise", optional=True) for n in names)
    return Fold("depthwise", "(stage layer role) out kh kw", parts, "out kh kw")


def kernels(prefix: str, *names: str, optional: bool = False) -> Fold:
    """Return kernels larger than 1 x 1 with their positions as modes, one tensor per shape."""
    parts = tuple(single(f"{prefix}.{n}.weight", n, "out in kh kw", block="conv", optional=optional) for n in names)
    return Fold("kernels", f"{STAGES} kh kw", parts, f"{SHAPES} kh kw")


def pointwise(prefix: str, *names: str) -> Fold:
    """Return 1 x 1 convolutions as matrices, one tensor per shape."""
    parts = tuple(single(f"{prefix}.{n}.weight", n, block="conv", optional=True) for n in names)
    return Fold("pointwise", STAGES, parts, SHAPES)


def sizes(**options: object) -> Options:
    """Return timm's options for a small transformer, updated by the given ones."""
    return {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 32, "patch_size": 8, **options}

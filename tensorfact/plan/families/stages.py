"""transformers' image models whose stages have different widths."""

from __future__ import annotations

from .family import Example, Family, Fold
from .parts import SHAPES, STACK, STAGES, depthwise, mlp, single, split

_SWIN = "encoder.layers.{stage}.blocks.{layer}"
_CONVNEXT = "encoder.stages.{stage}.layers.{layer}"
_DINOV3 = "stages.{stage}.layers.{layer}"
_SEGFORMER = "stages.{stage}.blocks.{layer}"
_RESNET = "encoder.stages.{stage}.layers.{layer}.layer"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_WIDTHS = {"hidden_sizes": (16, 32), "depths": (2, 1), "image_size": 32}

STAGED = (
    Family(
        "hf-swin",
        (Fold("stages", STACK, (*split(f"{_SWIN}.attention", *_PROJECTIONS), *mlp(f"{_SWIN}.mlp")), "stage"),),
        (
            Example(
                "hf:swin",
                {"image_size": 32, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4},
            ),
        ),
    ),
    Family(
        "hf-convnext",
        (Fold("stages", STACK, mlp(_CONVNEXT, "pwconv1", "pwconv2"), "stage"), depthwise(_CONVNEXT, "dwconv")),
        (Example("hf:convnext", {**_WIDTHS, "num_stages": 2}),),
    ),
    Family(
        "dinov3-convnext",
        (
            Fold("stages", STACK, mlp(_DINOV3, "pointwise_conv1", "pointwise_conv2"), "stage"),
            depthwise(_DINOV3, "depthwise_conv"),
        ),
        (Example("hf:dinov3_convnext", _WIDTHS),),
    ),
    Family(
        "hf-resnet",
        (
            Fold(
                "kernels",
                f"{STAGES} kh kw",
                tuple(
                    single(f"{_RESNET}.{at}.convolution.weight", f"conv{at + 1}", "out in kh kw", block="conv")
                    for at in range(2)
                ),
                f"{SHAPES} kh kw",
            ),
            Fold(
                "pointwise",
                STAGES,
                tuple(
                    single(f"{_RESNET}.{at}.convolution.weight", f"conv{at + 1}", block="conv", optional=True)
                    for at in (0, 2)
                ),
                SHAPES,
            ),
        ),
        (
            Example("hf:resnet", {"embedding_size": 8, "hidden_sizes": (16, 32), "depths": (2, 1)}),
            Example("hf:resnet(layer_type=basic,depths=(2,2,2,2))", {"hidden_sizes": (16, 32), "depths": (2, 1)}),
        ),
    ),
    Family(
        "segformer",
        (
            Fold(
                "stages", STACK, (*split(f"{_SEGFORMER}.attention", *_PROJECTIONS), *mlp(f"{_SEGFORMER}.mlp")), "stage"
            ),
            Fold(
                "reductions",  # of the keys and values, none in the last stage
                f"{STAGES} kh kw",
                (
                    single(
                        f"{_SEGFORMER}.attention.sequence_reduction.sequence_reduction.weight",
                        "reduction",
                        "out in kh kw",
                        optional=True,
                    ),
                ),
                f"{SHAPES} kh kw",
            ),
            depthwise(f"{_SEGFORMER}.mlp.dwconv", "dwconv"),
        ),
        (
            Example(
                "hf:segformer",
                {
                    "depths": (2, 1),
                    "hidden_sizes": (16, 32),
                    "num_attention_heads": (2, 4),
                    "sr_ratios": (2, 1),
                    "patch_sizes": (3, 3),
                    "strides": (2, 2),
                    "num_encoder_blocks": 2,
                },
            ),
        ),
    ),
)

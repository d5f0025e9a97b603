"""timm's families."""

from __future__ import annotations

from .family import Example, Family, Fold, Part
from .parts import (
    SHAPES,
    STACK,
    STAGES,
    block,
    class_block,
    depthwise,
    down,
    fused,
    kernels,
    mbconv,
    mlp,
    pointwise,
    single,
    sizes,
    split,
    up,
)

_LAYER = "blocks.{layer}"
_NESTED = "stages.{stage}.blocks.{layer}"
_MIXER = {"img_size": 64}
_NARROW = {"channels": (16, 32, 48, 64)}

VISION = (
    Family(
        "resmlp",
        (
            Fold("tokens", "layer in out", (Part("mlp", f"{_LAYER}.linear_tokens.weight", "out in", None),)),
            Fold("channels", STACK, mlp(f"{_LAYER}.mlp_channels")),
        ),
        (Example("resmlp_12_224", _MIXER),),
    ),
    Family(
        "gmlp",
        (
            Fold("tokens", "layer in out", (Part("mlp", f"{_LAYER}.mlp_channels.gate.proj.weight", "out in", None),)),
            Fold(
                "channels",
                STACK,
                (up(f"{_LAYER}.mlp_channels.fc1", "value", "gate"), down(f"{_LAYER}.mlp_channels.fc2")),
            ),
        ),
        (Example("gmlp_ti16_224", _MIXER),),
    ),
    Family(
        "mixer",
        (
            Fold(
                "tokens",
                "(layer role) tok hid",
                (
                    single(f"{_LAYER}.mlp_tokens.fc1.weight", "up", "hid tok", block="mlp"),
                    single(f"{_LAYER}.mlp_tokens.fc2.weight", "down", "tok hid", block="mlp"),
                ),
            ),
            Fold("channels", STACK, mlp(f"{_LAYER}.mlp_channels")),
        ),
        (Example("mixer_s32_224", _MIXER),),
    ),
    Family(
        "cait",
        (Fold("encoder", STACK, block(_LAYER)), Fold("token", STACK, class_block("blocks_token_only.{layer}"))),
        (Example("cait_xxs24_224", sizes(depth_token_only=1)),),
    ),
    Family(
        "xcit",
        (Fold("encoder", STACK, block(_LAYER)), Fold("token", STACK, class_block("cls_attn_blocks.{layer}"))),
        (Example("xcit_nano_12_p16_224", sizes(cls_attn_layers=1)),),
    ),
    Family(
        "vit",
        (
            Fold(
                "encoder",
                STACK,
                (
                    *block(_LAYER),
                    Part("attention", f"{_LAYER}.attn.qk.weight", "(role out) in", ("q", "k"), optional=True),  # ConViT
                    single(f"{_LAYER}.attn.v.weight", "v", optional=True),
                ),
            ),
        ),
        (
            Example("vit_base_patch16_224", sizes()),
            Example("deit3_small_patch16_224", sizes()),
            Example("beit_base_patch16_224", sizes()),
            Example("beitv2_base_patch16_224", sizes()),
        ),
    ),
    Family(
        "eva",
        (
            Fold(
                "encoder",
                STACK,
                (
                    *split(f"{_LAYER}.attn", "q_proj", "k_proj", "v_proj", "proj"),
                    up(f"{_LAYER}.mlp.fc1_g", "gate", optional=True),
                    up(f"{_LAYER}.mlp.fc1_x", optional=True),
                    up(f"{_LAYER}.mlp.fc1", optional=True),
                    down(f"{_LAYER}.mlp.fc2"),
                ),
            ),
        ),
        (Example("eva02_base_patch14_224", sizes(img_size=28, patch_size=14)),),
    ),
    Family(
        "eva-fused",
        (
            Fold(
                "encoder",
                STACK,
                (
                    fused(f"{_LAYER}.attn.qkv.weight"),
                    single(f"{_LAYER}.attn.proj.weight", "o"),
                    up(f"{_LAYER}.mlp.fc1", "gate", "up"),
                    down(f"{_LAYER}.mlp.fc2"),
                ),
            ),
        ),
        (Example("eva02_tiny_patch14_224", sizes(img_size=28, patch_size=14)),),
    ),
    Family(
        "hiera",
        (Fold("encoder", STACK, block(_LAYER), SHAPES),),
        (Example("hiera_tiny_224", {"stages": (1, 1, 1, 1), "embed_dim": 24, "num_heads": 1}),),
    ),
    Family(
        "swin",
        (Fold("stages", STACK, block("layers.{stage}.blocks.{layer}"), "stage"),),
        (
            Example(
                "swin_base_patch4_window7_224",
                {"depths": (2, 1), "embed_dim": 24, "num_heads": (2, 4), "img_size": 56},
            ),
            Example(
                "swinv2_tiny_window8_256",
                {"depths": (2, 1), "embed_dim": 24, "num_heads": (2, 4), "img_size": 64, "window_size": 4},
            ),
        ),
    ),
    Family(
        "pvt-v2",
        (
            Fold(
                "stages",
                STACK,
                (
                    single(f"{_NESTED}.attn.q.weight", "q"),
                    Part("attention", f"{_NESTED}.attn.kv.weight", "(role out) in", ("k", "v")),
                    single(f"{_NESTED}.attn.proj.weight", "o"),
                    *mlp(f"{_NESTED}.mlp"),
                ),
                "stage",
            ),
            depthwise(f"{_NESTED}.mlp", "dwconv"),
        ),
        (Example("pvt_v2_b1", {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 40, 64), "num_heads": (1, 2, 5, 8)}),),
    ),
    Family(
        "maxvit",
        (
            Fold("attention", "(stage layer window role) in out", block(f"{_NESTED}.attn_{{window}}"), SHAPES),
            mbconv(f"{_NESTED}.conv", "conv1_1x1", "conv3_1x1"),
            depthwise(f"{_NESTED}.conv", "conv2_kxk"),
        ),
        (Example("maxvit_rmlp_pico_rw_256", {"depths": (1, 1, 1, 1), "img_size": 64}),),
    ),
    Family(
        "coatnet",
        (
            Fold("attention", STAGES, block(_NESTED), SHAPES),
            mbconv(_NESTED, "conv1_1x1", "conv3_1x1"),
            depthwise(_NESTED, "conv2_kxk"),
        ),
        (Example("coatnet_nano_rw_224"),),
    ),
    Family(
        "mvitv2",
        (Fold("stages", STAGES, block(_NESTED), SHAPES), depthwise(f"{_NESTED}.attn", "pool_q", "pool_k", "pool_v")),
        (Example("mvitv2_tiny"),),
    ),
    Family(
        "metaformer",  # one kind of MLP beside any mixer of tokens
        (
            Fold(
                "stages",
                STACK,
                (
                    up(f"{_NESTED}.token_mixer.pwconv1", "expand", block="conv", optional=True),
                    down(f"{_NESTED}.token_mixer.pwconv2", "project", block="conv", optional=True),
                    fused(f"{_NESTED}.token_mixer.qkv.weight", optional=True),
                    single(f"{_NESTED}.token_mixer.proj.weight", "o", optional=True),
                    *mlp(f"{_NESTED}.mlp"),
                ),
                "stage",
            ),
            depthwise(_NESTED, "conv_dw", "token_mixer.dwconv"),
        ),
        (
            Example("caformer_s18"),
            Example("convformer_s18"),
            Example("convnext_tiny", {"depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64)}),
            Example("convnextv2_atto", {"depths": (1, 1, 2, 1)}),
        ),
    ),
    Family(
        "efficientnet",
        (
            mbconv("blocks.{stage}.{layer}", "conv_pw", "conv_pwl"),
            kernels("blocks.{stage}.{layer}", "conv", "conv_exp", optional=True),
            depthwise("blocks.{stage}.{layer}", "conv_dw"),
        ),
        (
            Example("efficientnet_b0"),
            Example("efficientnetv2_s", {"channel_multiplier": 0.5, "depth_multiplier": 0.3}),
        ),
    ),
    Family(
        "resnet",
        (
            kernels("layer{stage}.{layer}", "conv1", "conv2"),
            pointwise("layer{stage}.{layer}", "conv1", "conv3"),
        ),
        (
            Example("resnet18", _NARROW),
            Example("resnet50", _NARROW),
            Example("resnext50_32x4d", {"cardinality": 4, "base_width": 16, **_NARROW}),
        ),
    ),
)

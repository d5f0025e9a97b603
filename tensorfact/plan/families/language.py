"""The families of transformers, for text and images, and torch's own transformer layers."""

from __future__ import annotations

from .family import Example, Family, Fold
from .parts import SHAPES, STACK, down, fused, gated, mlp, single, split, up

_SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 128}
_IMAGE = {**_SMALL, "image_size": 32, "patch_size": 8}
_TEXT = {**_SMALL, "vocab_size": 64}

LANGUAGE = (
    Family(
        "hf-vit",
        (
            Fold(
                "encoder",
                STACK,
                (
                    *split("layers.{layer}.attention", "q_proj", "k_proj", "v_proj", "o_proj"),
                    *mlp("layers.{layer}.mlp"),
                ),
            ),
        ),
        (Example("hf:vit", _IMAGE),),
    ),
    Family(
        "dinov2",
        (
            Fold(
                "encoder",
                STACK,
                (
                    *split("encoder.layer.{layer}.attention", "q_proj", "k_proj", "v_proj", "o_proj"),
                    up("encoder.layer.{layer}.mlp.fc1", optional=True),
                    down("encoder.layer.{layer}.mlp.fc2", optional=True),
                    *gated("encoder.layer.{layer}.mlp", optional=True),
                ),
            ),
        ),
        (Example("hf:dinov2", {**_IMAGE, "mlp_ratio": 4}),),
    ),
    Family(
        "clip",
        (
            Fold(
                "encoder",
                STACK,
                (
                    *split("encoder.layers.{layer}.self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
                    *mlp("encoder.layers.{layer}.mlp"),
                ),
            ),
        ),
        (Example("hf:clip", {"text_config": _TEXT, "vision_config": _IMAGE, "projection_dim": 16}),),
    ),
    Family(
        "bert",
        (
            Fold(
                "encoder",
                STACK,
                (
                    *split("encoder.layer.{layer}.attention.self", "query", "key", "value"),
                    single("encoder.layer.{layer}.attention.output.dense.weight", "o"),
                    up("encoder.layer.{layer}.intermediate.dense"),
                    down("encoder.layer.{layer}.output.dense"),
                ),
            ),
        ),
        (Example("hf:bert", _TEXT),),
    ),
    Family(
        "gpt2",  # its layers store (in, out)
        (
            Fold(
                "decoder",
                STACK,
                (
                    fused("h.{layer}.attn.c_attn.weight", "in (role out)"),
                    single("h.{layer}.attn.c_proj.weight", "o", "in out"),
                    up("h.{layer}.mlp.c_fc", pattern="in (role out)"),
                    down("h.{layer}.mlp.c_proj", pattern="(role in) out"),
                ),
            ),
        ),
        (Example("hf:gpt2", {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 64}),),
    ),
    Family(
        "llama",
        (
            Fold(
                "decoder",
                STACK,
                (
                    *split("layers.{layer}.self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
                    *gated("layers.{layer}.mlp"),
                ),
                SHAPES,
            ),
        ),
        (Example("hf:llama", {**_TEXT, "num_key_value_heads": 2, "intermediate_size": 80}),),
    ),
    Family(
        "t5",
        (
            Fold(
                "blocks",
                STACK,
                (
                    *split("block.{layer}.layer.0.SelfAttention", "q", "k", "v", "o"),
                    *(
                        single(f"block.{{layer}}.layer.1.EncDecAttention.{name}.weight", f"cross_{name}", optional=True)
                        for name in "qkvo"
                    ),
                    *(
                        part
                        for sub in (1, 2)  # an encoder's second sublayer, a decoder's third
                        for part in (
                            up(f"block.{{layer}}.layer.{sub}.DenseReluDense.wi", optional=True),
                            up(f"block.{{layer}}.layer.{sub}.DenseReluDense.wi_0", "gate", optional=True),
                            up(f"block.{{layer}}.layer.{sub}.DenseReluDense.wi_1", optional=True),
                            down(f"block.{{layer}}.layer.{sub}.DenseReluDense.wo", optional=True),
                        )
                    ),
                ),
                SHAPES,
            ),
        ),
        (Example("hf:t5", {"num_layers": 2, "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 128, "vocab_size": 64}),),
    ),
    Family(
        "torch",
        (
            Fold(
                "layers",
                STACK,
                (
                    fused("layers.{layer}.self_attn.in_proj_weight"),
                    single("layers.{layer}.self_attn.out_proj.weight", "o"),
                    fused(
                        "layers.{layer}.multihead_attn.in_proj_weight",
                        roles=("cross_q", "cross_k", "cross_v"),
                        optional=True,
                    ),
                    single("layers.{layer}.multihead_attn.out_proj.weight", "cross_o", optional=True),
                    *mlp("layers.{layer}", "linear1", "linear2"),
                ),
            ),
        ),
        (
            Example(
                "torch:Transformer",
                {
                    "d_model": 32,
                    "nhead": 4,
                    "num_encoder_layers": 2,
                    "num_decoder_layers": 2,
                    "dim_feedforward": 64,
                    "batch_first": True,
                },
            ),
        ),
    ),
)

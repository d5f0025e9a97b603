"""transformers' encoders of text, images and speech."""

from __future__ import annotations

from .family import Example, Family, Fold
from .parts import IMAGE, RATIO, STACK, TEXT, down, fused, gated, mlp, single, split, up

_BERT = "encoder.layer.{layer}"
_DISTILBERT = "layer.{layer}"
_ALBERT = "albert_layer_groups.{layer}.albert_layers.0"
_SPEECH = {"conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_conv_pos_embeddings": 8}

_BERT_MLP = (up(f"{_BERT}.intermediate.dense"), down(f"{_BERT}.output.dense"))

ENCODERS = (
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
        (Example("hf:vit", IMAGE),),
    ),
    Family(
        "dinov2",
        (
            Fold(
                "encoder",
                STACK,
                (
                    *split(f"{_BERT}.attention", "q_proj", "k_proj", "v_proj", "o_proj"),
                    *mlp(f"{_BERT}.mlp", optional=True),
                    *gated(f"{_BERT}.mlp", optional=True),
                ),
            ),
        ),
        (Example("hf:dinov2", {**RATIO, "image_size": 32, "patch_size": 8}),),
    ),
    Family(
        "dinov3",
        (
            Fold(
                "encoder",
                STACK,
                (
                    *split("layer.{layer}.attention", "q_proj", "k_proj", "v_proj", "o_proj"),
                    up("layer.{layer}.mlp.gate_proj", "gate", optional=True),
                    up("layer.{layer}.mlp.up_proj"),
                    down("layer.{layer}.mlp.down_proj"),
                ),
            ),
        ),
        (Example("hf:dinov3_vit", IMAGE),),
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
        (Example("hf:clip", {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 16}),),
    ),
    Family(
        "bert",
        (
            Fold(
                "encoder",
                STACK,
                (
                    *split(f"{_BERT}.attention.self", "query", "key", "value"),
                    single(f"{_BERT}.attention.output.dense.weight", "o"),
                    *_BERT_MLP,
                ),
            ),
        ),
        (Example("hf:bert", TEXT),),
    ),
    Family(
        "deberta-v2",
        (
            Fold(
                "encoder",
                STACK,
                (
                    *split(f"{_BERT}.attention.self", "query_proj", "key_proj", "value_proj"),
                    single(f"{_BERT}.attention.self.pos_query_proj.weight", "pos_q", optional=True),
                    single(f"{_BERT}.attention.self.pos_key_proj.weight", "pos_k", optional=True),
                    single(f"{_BERT}.attention.output.dense.weight", "o"),
                    *_BERT_MLP,
                ),
            ),
        ),
        (
            Example(
                "hf:deberta-v2",
                {**TEXT, "relative_attention": True, "pos_att_type": ("p2c", "c2p"), "max_relative_positions": 8},
            ),
        ),
    ),
    Family(
        "mpnet",
        (
            Fold(
                "encoder",
                STACK,
                (*split(f"{_BERT}.attention.attn", "q", "k", "v", "o"), *_BERT_MLP),
            ),
        ),
        (Example("hf:mpnet", TEXT),),
    ),
    Family(
        "distilbert",
        (
            Fold(
                "encoder",
                STACK,
                (
                    *split(f"{_DISTILBERT}.attention", "q_lin", "k_lin", "v_lin", "out_lin"),
                    *mlp(f"{_DISTILBERT}.ffn", "lin1", "lin2"),
                ),
            ),
        ),
        (Example("hf:distilbert", {"n_layers": 2, "dim": 32, "n_heads": 4, "hidden_dim": 128, "vocab_size": 64}),),
    ),
    Family(
        "albert",  # each of its groups is one layer, called several times
        (
            Fold(
                "encoder",
                STACK,
                (
                    *split(f"{_ALBERT}.attention", "query", "key", "value", "dense"),
                    *mlp(_ALBERT, "ffn", "ffn_output"),
                ),
            ),
        ),
        (Example("hf:albert", {**TEXT, "embedding_size": 16}),),
    ),
    Family(
        "modernbert",
        (
            Fold(
                "encoder",
                STACK,
                (
                    fused("layers.{layer}.attn.Wqkv.weight"),
                    single("layers.{layer}.attn.Wo.weight", "o"),
                    up("layers.{layer}.mlp.Wi", "gate", "up"),
                    down("layers.{layer}.mlp.Wo"),
                ),
            ),
        ),
        (Example("hf:modernbert", {**TEXT, "intermediate_size": 48, "pad_token_id": 0}),),
    ),
    Family(
        "wav2vec2",
        (
            Fold(
                "encoder",
                STACK,
                (
                    *split("encoder.layers.{layer}.attention", "q_proj", "k_proj", "v_proj", "out_proj"),
                    *mlp("encoder.layers.{layer}.feed_forward", "intermediate_dense", "output_dense"),
                ),
            ),
        ),
        (Example("hf:wav2vec2", {**TEXT, **_SPEECH, "num_conv_pos_embedding_groups": 4}),),
    ),
)

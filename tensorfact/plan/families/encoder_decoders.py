"""Families with an encoder and a decoder of equal names, where the decoder also attends to the encoder's output."""

from __future__ import annotations

import dataclasses

from ...common.aliases import Options
from .family import Example, Family, Fold
from .parts import SHAPES, STACK, down, fused, mlp, single, split, up

_BLOCK = "block.{layer}.layer"
_LAYER = "layers.{layer}"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_QUERIES = split("decoder.layers.{layer}.self_attn", *_PROJECTIONS)
_TORCH = {"d_model": 32, "nhead": 4, "num_encoder_layers": 2, "num_decoder_layers": 2, "dim_feedforward": 64}
_RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 16], "depths": [2, 1]}


def _sizes(**options: object) -> Options:
    """Return transformers' options for a small encoder and decoder, updated by the given ones."""
    sides = {
        f"{side}_{name}": size
        for side in ("encoder", "decoder")
        for name, size in (("layers", 1), ("attention_heads", 4), ("ffn_dim", 128))
    }
    return {"d_model": 32, **sides, **options}


_WORDS = _sizes(vocab_size=64, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0)
_TRANSLATION = {**_WORDS, "forced_eos_token_id": None}

ENCODER_DECODERS = (
    Family(
        "t5",
        (
            Fold(
                "blocks",
                STACK,
                (
                    *split(f"{_BLOCK}.0.SelfAttention", "q", "k", "v", "o"),
                    *split(f"{_BLOCK}.1.EncDecAttention", "q", "k", "v", "o", before="cross_", optional=True),
                    *(
                        part
                        for sub in (1, 2)  # an encoder's second sublayer, a decoder's third
                        for part in (
                            up(f"{_BLOCK}.{sub}.DenseReluDense.wi", optional=True),
                            up(f"{_BLOCK}.{sub}.DenseReluDense.wi_0", "gate", optional=True),
                            up(f"{_BLOCK}.{sub}.DenseReluDense.wi_1", optional=True),
                            down(f"{_BLOCK}.{sub}.DenseReluDense.wo", optional=True),
                        )
                    ),
                ),
                SHAPES,
            ),
        ),
        (Example("hf:t5", {"num_layers": 2, "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 128, "vocab_size": 64}),),
    ),
    Family(
        "bart",  # OPT is a decoder alone, without attention to an encoder
        (
            Fold(
                "layers",
                STACK,
                (
                    *split(f"{_LAYER}.self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
                    *split(
                        f"{_LAYER}.encoder_attn",
                        *("q_proj", "k_proj", "v_proj", "out_proj"),
                        before="cross_",
                        optional=True,
                    ),
                    *mlp(_LAYER),
                ),
            ),
        ),
        (
            Example("hf:bart", _TRANSLATION),
            Example("hf:mbart", _TRANSLATION),
            Example("hf:marian", _TRANSLATION),
            Example(
                "hf:opt",
                {
                    "hidden_size": 32,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "ffn_dim": 128,
                    "vocab_size": 64,
                    "word_embed_proj_dim": 32,
                },
            ),
            Example(
                "hf:whisper",
                {
                    **_WORDS,
                    "num_mel_bins": 8,
                    "max_source_positions": 8,
                    "max_target_positions": 16,
                    "bos_token_id": 0,
                    "suppress_tokens": None,
                    "begin_suppress_tokens": None,
                },
            ),
        ),
    ),
    Family(
        "detr",
        (
            Fold(
                "encoder",
                STACK,
                (*split("encoder.layers.{layer}.self_attn", *_PROJECTIONS), *mlp("encoder.layers.{layer}.mlp")),
            ),
            Fold(
                "decoder",
                STACK,
                (
                    *(
                        dataclasses.replace(part, dead=(0,)) for part in _QUERIES[:3]
                    ),  # its first layer attends to zeros
                    _QUERIES[3],
                    *split("decoder.layers.{layer}.encoder_attn", *_PROJECTIONS, before="cross_"),
                    *mlp("decoder.layers.{layer}.mlp"),
                ),
            ),
        ),
        (Example("hf:detr", {**_sizes(num_queries=4, decoder_layers=2), "backbone_config": _RESNET}),),
    ),
    Family(
        "torch",
        (
            Fold(
                "layers",
                STACK,
                (
                    fused(f"{_LAYER}.self_attn.in_proj_weight"),
                    single(f"{_LAYER}.self_attn.out_proj.weight", "o"),
                    fused(
                        f"{_LAYER}.multihead_attn.in_proj_weight",
                        roles=("cross_q", "cross_k", "cross_v"),
                        optional=True,
                    ),
                    single(f"{_LAYER}.multihead_attn.out_proj.weight", "cross_o", optional=True),
                    *mlp(_LAYER, "linear1", "linear2"),
                ),
            ),
        ),
        (Example("torch:Transformer", {**_TORCH, "batch_first": True}),),
    ),
)

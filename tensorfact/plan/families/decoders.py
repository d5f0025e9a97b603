"""transformers' decoders: language models without an encoder."""

from __future__ import annotations

from .family import Block, Example, Family, Fold, Heads, Part
from .parts import RATIO, SHAPES, STACK, TEXT, down, fused, fused_by_heads, gated, mlp, single, split, up

_GPT = {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 64}
_FALCON = {**RATIO, "vocab_size": 64}
_BY_HEADS = "(layer role) in (head dim)"
_EXPERTS: Block = "experts"


def _alternating(prefix: str, attention: str, heads: Heads, partition: str | None = None) -> tuple[Fold, ...]:
    """Return a decoder in whose fused weight q, k and v alternate by head; the other outputs are split as its heads."""
    parts = (
        fused_by_heads(f"{prefix}.{attention}.query_key_value.weight", heads),
        single(f"{prefix}.{attention}.dense.weight", "o", "(head dim) in"),
        up(f"{prefix}.mlp.dense_h_to_4h", pattern="(role head dim) in"),
        down(f"{prefix}.mlp.dense_4h_to_h", pattern="(head dim) (role in)"),
    )
    return (Fold("decoder", _BY_HEADS, parts, partition),)


DECODERS = (
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
        (Example("hf:gpt2", _GPT),),
    ),
    Family(
        "gptj",
        (
            Fold(
                "decoder",
                STACK,
                (
                    *split("h.{layer}.attn", "q_proj", "k_proj", "v_proj", "out_proj"),
                    *mlp("h.{layer}.mlp", "fc_in", "fc_out"),
                ),
            ),
        ),
        (Example("hf:gptj", {**_GPT, "rotary_dim": 4}),),
    ),
    Family(
        "gpt-neox",
        _alternating("layers.{layer}", "attention", Heads("num_attention_heads", "head_size")),
        (Example("hf:gpt_neox", TEXT),),
    ),
    Family(
        "bloom",
        _alternating("h.{layer}", "self_attention", Heads("num_heads", "head_dim")),
        (Example("hf:bloom", {"n_layer": 2, "hidden_size": 32, "n_head": 4, "vocab_size": 64}),),
    ),
    Family(
        "falcon",
        _alternating("h.{layer}", "self_attention", Heads("num_heads", "head_dim", "num_kv_heads"), "in head dim"),
        (
            Example("hf:falcon", _FALCON),
            Example(
                "hf:falcon(new_decoder_architecture=True,hidden_size=8192,num_attention_heads=128,num_kv_heads=8)",
                {**_FALCON, "num_kv_heads": 2},
            ),
            Example("hf:falcon(multi_query=False)", _FALCON),
        ),
    ),
    Family(
        "mixtral",
        (
            Fold(
                "decoder",
                STACK,
                (
                    *split("layers.{layer}.self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
                    *gated("layers.{layer}.mlp.shared_expert", optional=True),
                ),
                SHAPES,
            ),
            Fold(
                "experts",
                "(layer role expert) in hid",
                (
                    Part(_EXPERTS, "layers.{layer}.mlp.experts.gate_up_proj", "expert (role hid) in", ("gate", "up")),
                    Part(_EXPERTS, "layers.{layer}.mlp.experts.down_proj", "expert in hid", "down"),
                ),
            ),
        ),
        (Example("hf:mixtral", {**TEXT, "num_key_value_heads": 2, "intermediate_size": 24, "num_local_experts": 4}),),
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
        (Example("hf:llama", {**TEXT, "num_key_value_heads": 2, "intermediate_size": 80}),),
    ),
    Family(
        "phi",
        (
            Fold(
                "decoder",
                STACK,
                (
                    *split("layers.{layer}.self_attn", "q_proj", "k_proj", "v_proj", "dense"),
                    *mlp("layers.{layer}.mlp"),
                ),
                SHAPES,
            ),
        ),
        (Example("hf:phi", {**TEXT, "num_key_value_heads": 2}),),
    ),
    Family(
        "phi3",
        (
            Fold(
                "decoder",
                STACK,
                (
                    fused_by_heads(
                        "layers.{layer}.self_attn.qkv_proj.weight",
                        Heads("num_attention_heads", "head_dim", "num_key_value_heads"),
                        "(role out) in",
                    ),
                    single("layers.{layer}.self_attn.o_proj.weight", "o"),
                    up("layers.{layer}.mlp.gate_up_proj", "gate", "up"),
                    down("layers.{layer}.mlp.down_proj"),
                ),
                SHAPES,
            ),
        ),
        (Example("hf:phi3", {**TEXT, "num_key_value_heads": 2, "pad_token_id": 0}),),
    ),
)

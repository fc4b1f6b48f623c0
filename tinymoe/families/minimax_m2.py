"""MiniMax-M2: part of each head turns, queries and keys normed over all heads, sigmoid with a bias.

MiniMaxAI/MiniMax-M2 (its experts in bf16). Checked against transformers' `minimax_m2`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinymoe.cards import ModelConfig, full_attention
from tinymoe.families.common import (
    all_moe,
    assemble,
    plain_router,
    read_sizes,
    refuse_unknown_arithmetic,
)
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.rope_fields import read_rope
from tinymoe.families.standard import Names, load_model
from tinymoe.families.tensors import Source
from tinymoe.model.params import Params

NAMES = Names(
    router="block_sparse_moe.gate.weight",
    selection_bias="block_sparse_moe.e_score_correction_bias",
    expert="block_sparse_moe.experts.{}",
    gate="w1",
    up="w3",
    down="w2",
)
# of training, of layers that predict further tokens, and sizes of parts that are not there
MINIMAX_HARMLESS = HARMLESS | {
    *("attention_dropout", "router_jitter_noise", "initializer_range", "max_model_len"),
    *("use_mtp", "num_mtp_modules", "mtp_transformer_layers", "mlp_intermediate_size"),
}


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json; `rotary_dim` counts the dimensions of a head that turn."""
    fields = Fields(config)
    refuse_unknown_arithmetic(fields)
    fields.only("attention_bias", None, False)
    fields.only("use_qk_norm", None, True)
    fields.only("qk_norm_type", None, "per_layer")  # one norm over all heads of a layer
    fields.only("scoring_func", None, "sigmoid")
    fields.only("use_routing_bias", None, True)
    fields.only("shared_intermediate_size", None, 0)
    fields.only("shared_moe_mode", None, "sigmoid")
    kinds = fields.take("attn_type_list", None)
    if kinds is not None and set(kinds) != {1}:  # 0 is linear attention
        raise fields.unsupported("attn_type_list")
    sizes, layers = read_sizes(fields), all_moe(fields)
    fraction = 1.0
    if "rotary_dim" in fields:
        fraction = fields.count("rotary_dim", most=sizes.head_dim) / sizes.head_dim
    rope = read_rope(fields, sizes.head_dim, fraction=fraction)
    router = replace(
        plain_router(fields, "num_local_experts", "num_experts"),
        score="sigmoid",
        selection_bias=True,
        renormalise=True,
        bias_dtype="float32",
    )
    result = assemble(
        fields,
        sizes,
        family="minimax_m2",
        layers=layers,
        attention=replace(full_attention(sizes.head_dim, rope), qk_norm="all_heads"),
        router=router,
        moe_intermediate=fields.count("intermediate_size"),
        dense_intermediate=0,
        default_eps=1e-6,
    )
    fields.finish(MINIMAX_HARMLESS)
    return result


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return load_model(source, config, NAMES)

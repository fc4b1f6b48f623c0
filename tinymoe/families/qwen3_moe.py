"""Qwen3-MoE: grouped-query attention with normed heads, softmax router, no shared expert.

Qwen/Qwen3-30B-A3B and its kin. Checked against transformers' `qwen3_moe`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinymoe.cards import ModelConfig, full_attention
from tinymoe.families.common import (
    Kinds,
    assemble,
    layer_count,
    plain_router,
    read_sizes,
    refuse_unknown_arithmetic,
)
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.rope_fields import read_rope
from tinymoe.families.standard import Names, load_model
from tinymoe.families.tensors import Source
from tinymoe.model.params import Params

NAMES = Names()

# attention_dropout is for training; max_window_layers counts layers of a sliding window, and a
# window in use is refused
QWEN3_HARMLESS = HARMLESS | {"attention_dropout", "max_window_layers"}


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json in either style: 4.x (`rope_theta`) or 5.x (`rope_parameters`)."""
    fields = Fields(config)
    _refuse_variants(fields)
    sizes = read_sizes(fields)
    layers = sparse_layers(fields)
    card = full_attention(sizes.head_dim, read_rope(fields, sizes.head_dim))
    router = plain_router(fields, "num_experts", "num_local_experts")
    result = assemble(
        fields,
        sizes,
        family="qwen3_moe",
        layers=layers,
        attention=replace(card, qk_norm="per_head"),
        router=replace(router, renormalise=fields.flag("norm_topk_prob")),
        moe_intermediate=fields.count("moe_intermediate_size"),
        dense_intermediate=fields.count("intermediate_size"),
        default_eps=1e-6,
    )
    fields.finish(QWEN3_HARMLESS)
    return result


def _refuse_variants(fields: Fields) -> None:
    """Fields whose other values ask for arithmetic that this file does not have."""
    refuse_unknown_arithmetic(fields)
    fields.only("attention_bias", None, False)
    fields.only("qkv_bias", None, False)
    fields.only("use_qk_norm", None, True)
    fields.only("shared_expert_intermediate_size", None, 0)
    window = fields.take("sliding_window", None)
    if fields.take("use_sliding_window", window is not None) is not False and window is not None:
        raise fields.unsupported("sliding_window")
    kinds = fields.take("layer_types", None)
    full = isinstance(kinds, list) and all(kind == "full_attention" for kind in kinds)
    if kinds is not None and not full:
        raise fields.unsupported("layer_types")


def sparse_layers(fields: Fields) -> Kinds:
    """Layer i has experts if (i + 1) % decoder_sparse_step is 0 and it is not listed as dense."""
    number = layer_count(fields)
    step = fields.count("decoder_sparse_step")
    dense = fields.take("mlp_only_layers", None)
    dense = [] if dense is None else dense
    if not isinstance(dense, list) or not all(type(i) is int and 0 <= i < number for i in dense):
        raise fields.error("mlp_only_layers", f"a list of layers from 0 to {number - 1}")
    return tuple(
        "dense" if i in dense or (i + 1) % step else "moe"  # null: none is dense
        for i in range(number)
    )


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return load_model(source, config, NAMES)

"""Qwen2-MoE: biases on query, key and value; a gated shared expert beside the routed ones.

Qwen/Qwen1.5-MoE-A2.7B, Qwen/Qwen2-57B-A14B. Checked against transformers' `qwen2_moe`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinymoe.cards import AttentionCard, ModelConfig, full_attention
from tinymoe.families.common import (
    assemble,
    plain_router,
    read_sizes,
    read_windows,
    refuse_unknown_arithmetic,
    shared_card,
)
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.qwen3_moe import sparse_layers
from tinymoe.families.rope_fields import read_rope
from tinymoe.families.standard import Names, load_model
from tinymoe.families.tensors import Source
from tinymoe.model.params import Params

NAMES = Names(shared="mlp.shared_expert")
# which layers slide is said by layer_types; max_window_layers alone is refused with a window on
QWEN2_HARMLESS = HARMLESS | {"attention_dropout", "max_window_layers"}


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json; `qkv_bias` is true where it is missing."""
    fields = Fields(config)
    refuse_unknown_arithmetic(fields)
    sizes, layers = read_sizes(fields), sparse_layers(fields)
    card = full_attention(sizes.head_dim, read_rope(fields, sizes.head_dim))
    card = replace(card, qkv_bias=fields.flag("qkv_bias", True))
    router = plain_router(fields, "num_experts", "num_local_experts")
    result = assemble(
        fields,
        sizes,
        family="qwen2_moe",
        layers=layers,
        attention=_windows(fields, card, len(layers)),
        router=replace(router, renormalise=fields.flag("norm_topk_prob")),
        moe_intermediate=fields.count("moe_intermediate_size"),
        dense_intermediate=fields.count("intermediate_size"),
        default_eps=1e-6,
        experts=shared_card("gated", fields.count("shared_expert_intermediate_size")),
    )
    fields.finish(QWEN2_HARMLESS)
    return result


def _windows(fields: Fields, card: AttentionCard, number: int) -> tuple[AttentionCard, ...]:
    """A window counts where `use_sliding_window` is on and `layer_types` says where."""
    window = fields.take("sliding_window", None)
    if not fields.flag("use_sliding_window", False):
        window = None
    elif "layer_types" not in fields:
        raise fields.unsupported("use_sliding_window")
    else:
        window = fields.count("sliding_window")
    windows = read_windows(fields, number, window)
    return tuple(replace(card, window=w) for w in windows or (None,) * number)


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return load_model(source, config, NAMES)

"""Mixtral: softmax over all experts, the two largest divided by their sum; a window or none.

mistralai/Mixtral-8x7B and kin. Checked against transformers' `mixtral`.
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
    expert="block_sparse_moe.experts.{}",
    gate="w1",
    up="w3",  # w2 is down (sglang#32430: two of the three exchanged, GSM8K 0 %)
    down="w2",
)
MIXTRAL_HARMLESS = HARMLESS | {"attention_dropout", "router_jitter_noise"}  # both for training


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json; `sliding_window` holds for every layer."""
    fields = Fields(config)
    refuse_unknown_arithmetic(fields)
    sizes, layers = read_sizes(fields), all_moe(fields)
    window = fields.count("sliding_window") if "sliding_window" in fields else None
    fields.take("sliding_window", None)
    card = full_attention(sizes.head_dim, read_rope(fields, sizes.head_dim))
    router = plain_router(fields, "num_local_experts", "num_experts")
    result = assemble(
        fields,
        sizes,
        family="mixtral",
        layers=layers,
        attention=replace(card, window=window),
        router=replace(router, renormalise=True),
        moe_intermediate=fields.count("intermediate_size"),
        dense_intermediate=0,
        default_eps=1e-5,
    )
    fields.finish(MIXTRAL_HARMLESS)
    return result


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return load_model(source, config, NAMES)

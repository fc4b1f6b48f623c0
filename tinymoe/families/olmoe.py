"""OLMoE: queries and keys normed over all heads together, then clipped.

allenai/OLMoE-1B-7B. Checked against transformers' `olmoe`.
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

NAMES = Names()


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json; `intermediate_size` is an expert's."""
    fields = Fields(config)
    refuse_unknown_arithmetic(fields)
    fields.only("attention_bias", None, False)
    sizes, layers = read_sizes(fields), all_moe(fields)
    clip = fields.positive("clip_qkv") if "clip_qkv" in fields else None
    fields.take("clip_qkv", None)
    card = full_attention(sizes.head_dim, read_rope(fields, sizes.head_dim))
    router = plain_router(fields, "num_experts", "num_local_experts")
    result = assemble(
        fields,
        sizes,
        family="olmoe",
        layers=layers,
        attention=replace(card, qk_norm="all_heads", clip=clip),
        router=replace(router, renormalise=fields.flag("norm_topk_prob")),
        moe_intermediate=fields.count("intermediate_size"),
        dense_intermediate=0,
        default_eps=1e-5,
    )
    fields.finish(HARMLESS | {"attention_dropout"})
    return result


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return load_model(source, config, NAMES)

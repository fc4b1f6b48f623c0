"""GLM-4.5: half of each head turns, sigmoid scores with a choosing bias, a shared expert.

zai-org/GLM-4.5, GLM-4.5-Air and GLM-4.6. Checked against transformers' `glm4_moe`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinymoe.cards import ModelConfig, full_attention
from tinymoe.families.common import (
    assemble,
    biased_sigmoid_router,
    dense_first,
    read_sizes,
    refuse_unknown_arithmetic,
    shared_card,
)
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.rope_fields import read_rope
from tinymoe.families.standard import Names, load_model
from tinymoe.families.tensors import Source
from tinymoe.model.params import Params

NAMES = Names()
# layers that predict further tokens lie past the last one and are not run
GLM_HARMLESS = HARMLESS | {"attention_dropout", "num_mtp_layers", "num_nextn_predict_layers"}


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json; `attention_bias` concerns query, key and value, never the output."""
    fields = Fields(config)
    refuse_unknown_arithmetic(fields)
    sizes, layers = read_sizes(fields), dense_first(fields)
    rope = read_rope(fields, sizes.head_dim, fraction=0.5)
    card = replace(
        full_attention(sizes.head_dim, rope),
        qkv_bias=fields.flag("attention_bias"),
        qk_norm="per_head" if fields.flag("use_qk_norm") else "none",
    )
    width = fields.count("moe_intermediate_size")
    result = assemble(
        fields,
        sizes,
        family="glm4_moe",
        layers=layers,
        attention=card,
        router=biased_sigmoid_router(fields),
        moe_intermediate=width,
        dense_intermediate=fields.count("intermediate_size"),
        default_eps=1e-5,
        experts=shared_card("added", width * fields.count("n_shared_experts")),
    )
    fields.finish(GLM_HARMLESS)
    return result


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return load_model(source, config, NAMES)

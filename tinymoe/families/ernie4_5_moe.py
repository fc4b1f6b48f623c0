"""Ernie 4.5: interleaved rope, a bias that chooses by softmax, a band of layers with experts.

baidu/ERNIE-4.5-21B-A3B, ERNIE-4.5-300B-A47B. Checked against transformers' `ernie4_5_moe`.
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
    shared_card,
)
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.rope_fields import read_rope
from tinymoe.families.standard import Names, load_model
from tinymoe.families.tensors import Source
from tinymoe.model.params import Params

NAMES = Names(
    selection_bias="mlp.moe_statics.e_score_correction_bias",
    selection_bias_rows=(1,),
)
ERNIE_HARMLESS = HARMLESS | {
    "attention_dropout",
    "moe_capacity",  # of training: no token is dropped here
    *("num_nextn_predict_layers", "num_mtp_layers"),
}


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json."""
    fields = Fields(config)
    refuse_unknown_arithmetic(fields)
    fields.only("use_bias", None, False)
    fields.only("moe_use_aux_free", None, True)
    fields.only("moe_gate", None, "topk")
    fields.only("compression_ratio", None, 1, 1.0)
    sizes, layers = read_sizes(fields), _layers(fields)
    rope = read_rope(fields, sizes.head_dim, pairing="interleaved")
    k = "moe_k" if "moe_k" in fields else "num_experts_per_tok"
    router = replace(
        plain_router(fields, "moe_num_experts", "num_experts", k=k),
        selection_bias=True,
        renormalise=True,
        renorm_floor=fields.positive("moe_norm_min", 1e-12),
        logits_dtype="float32",
        bias_dtype="float32",
    )
    width = fields.count("moe_intermediate_size")
    shared = fields.count("moe_num_shared_experts") if fields.take("moe_num_shared_experts") else 0
    result = assemble(
        fields,
        sizes,
        family="ernie4_5_moe",
        layers=layers,
        attention=full_attention(sizes.head_dim, rope),
        router=router,
        moe_intermediate=width,
        dense_intermediate=fields.count("intermediate_size"),
        default_eps=1e-5,
        experts=shared_card("added", width * shared),
    )
    fields.finish(ERNIE_HARMLESS)
    return result


def _layers(fields: Fields) -> Kinds:
    """Experts where start <= i <= end and (i + 1) is a multiple of the interval; end -1: last."""
    number = layer_count(fields)
    start, end = fields.take("moe_layer_start_index"), fields.take("moe_layer_end_index")
    for name, value, least in (("start", start, 0), ("end", end, -1)):
        if type(value) is not int or not least <= value < number:
            raise fields.error(f"moe_layer_{name}_index", f"from {least} to {number - 1}")
    last, step = number - 1 if end == -1 else end, fields.count("moe_layer_interval")
    return tuple(
        "moe" if start <= index <= last and (index + 1) % step == 0 else "dense"
        for index in range(number)
    )


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return load_model(source, config, NAMES)

"""Granite-MoE, with a shared expert or without: constants on the residual stream, fused experts.

ibm-granite/granite-3.1-3b-a800m; `granitemoeshared` adds a shared expert to every layer. Checked
against transformers' `granitemoe` and `granitemoeshared`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinymoe.cards import ModelConfig, Multipliers, full_attention
from tinymoe.families.common import (
    all_moe,
    assemble,
    plain_router,
    read_sizes,
    refuse_unknown_arithmetic,
    shared_card,
)
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.rope_fields import read_rope
from tinymoe.families.standard import Names, fill_stacks, load_model, load_router
from tinymoe.families.tensors import Source, read_weight
from tinymoe.model.params import MoeParams, Params, SharedParams

NAMES = Names(router="block_sparse_moe.router.layer.weight")


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json; the four multipliers have no default here, as they change every number."""
    fields = Fields(config)
    refuse_unknown_arithmetic(fields)
    fields.only("attention_bias", None, False)
    sizes, layers = read_sizes(fields), all_moe(fields)
    card = full_attention(sizes.head_dim, read_rope(fields, sizes.head_dim))
    router = plain_router(fields, "num_local_experts", "num_experts")
    family = fields.take("model_type")
    width = 0
    if family == "granitemoeshared" and fields.take("shared_intermediate_size") != 0:
        width = fields.count("shared_intermediate_size")
    result = assemble(
        fields,
        sizes,
        family=family,
        layers=layers,
        attention=replace(card, scale=fields.positive("attention_multiplier")),
        router=replace(router, score="identity", weight_from="softmax_of_chosen"),
        moe_intermediate=fields.count("intermediate_size"),
        dense_intermediate=0,
        default_eps=1e-6,
        experts=shared_card("added", width),
        multipliers=Multipliers(
            embedding=fields.positive("embedding_multiplier"),
            residual=fields.positive("residual_multiplier"),
            logits_divisor=fields.positive("logits_scaling"),
        ),
    )
    fields.finish(HARMLESS | {"attention_dropout"})
    return result


def _fused_moe(source: Source, layer: str, config: ModelConfig, names: Names) -> MoeParams:
    """All experts in one tensor, gate rows and then up rows, as they are kept here."""
    moe, H = load_router(source, layer, config, names), config.hidden_size
    block = f"{layer}.block_sparse_moe"
    moe = fill_stacks(
        source, moe, (f"{block}.input_linear.weight", f"{block}.output_linear.weight")
    )
    width = config.experts.shared_intermediate
    if not width:
        return moe
    gate_up = read_weight(source, f"{layer}.shared_mlp.input_linear.weight", 2 * width, H)
    down = read_weight(source, f"{layer}.shared_mlp.output_linear.weight", H, width)
    return replace(moe, shared=SharedParams(gate_up=gate_up, down=down, gate=None))


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return load_model(source, config, NAMES, experts=_fused_moe)

"""Qwen3-Next: three layers of gated delta net, then one of full attention with an output gate.

Qwen/Qwen3-Next-80B-A3B-Instruct and -Thinking. Router and shared expert are Qwen2-MoE's. Norms
store w - 1, but for the one inside the delta net. Checked against transformers' `qwen3_next`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tinymoe.cards import GatedDeltaCard, LayerCard, ModelConfig, full_attention
from tinymoe.core import Array
from tinymoe.families.common import (
    assemble,
    plain_router,
    read_sizes,
    refuse_unknown_arithmetic,
    shared_card,
)
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.qwen3_moe import sparse_layers
from tinymoe.families.rope_fields import read_rope
from tinymoe.families.standard import (
    Names,
    expect_attention,
    load_head_norms,
    load_model,
    read_norm,
)
from tinymoe.families.tensors import Source, read, read_weight
from tinymoe.model.params import AttentionParams, GatedDeltaParams, Params

NAMES = Names(shared="mlp.shared_expert", norms_less_one=True)
NEXT_HARMLESS = HARMLESS | {"attention_dropout", "max_window_layers"}
UNIT_EPS = 1e-6  # under the length of queries and keys, whatever rms_norm_eps says
ROTARY_FRACTION = 0.25  # of a head, where the config does not say
FULL_EVERY = 4  # layers, where the config does not say


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json; which layers are full is said by `layer_types` or `full_attention_interval`."""
    fields = Fields(config)
    refuse_unknown_arithmetic(fields)
    fields.only("attention_bias", None, False)
    fields.only("use_sliding_window", None, False)
    fields.only("sliding_window", None)
    sizes, layers = read_sizes(fields), sparse_layers(fields)
    rope = read_rope(fields, sizes.head_dim, fraction=ROTARY_FRACTION)  # vllm#30384: applied twice
    full = replace(full_attention(sizes.head_dim, rope), qk_norm="per_head", out_gate=True)
    linear, router = _linear_card(fields), plain_router(fields, "num_experts", "num_local_experts")
    result = assemble(
        fields,
        sizes,
        family="qwen3_next",
        layers=layers,
        attention=tuple(full if is_full else linear for is_full in _full(fields, len(layers))),
        router=replace(router, renormalise=fields.flag("norm_topk_prob")),
        moe_intermediate=fields.count("moe_intermediate_size"),
        dense_intermediate=fields.count("intermediate_size"),
        default_eps=1e-6,
        rounds_before_weight=False,
        experts=shared_card("gated", fields.count("shared_expert_intermediate_size")),
    )
    fields.finish(NEXT_HARMLESS)
    return result


def _full(fields: Fields, number: int) -> list[bool]:
    """Whether each layer is one of full attention."""
    given = "full_attention_interval" in fields
    every = fields.count("full_attention_interval") if given else FULL_EVERY
    fields.take("full_attention_interval", None)
    regular = [(index + 1) % every == 0 for index in range(number)]
    kinds = fields.take("layer_types", None)
    if kinds is None:
        return regular
    known = ("linear_attention", "full_attention")
    if not isinstance(kinds, list) or len(kinds) != number or any(k not in known for k in kinds):
        raise fields.error("layer_types", f"a list of {number}, each one of {known}")
    listed = [kind == "full_attention" for kind in kinds]
    if given and listed != regular:
        raise fields.error("layer_types", f"as full_attention_interval, {every}, makes them")
    return listed


def _linear_card(fields: Fields) -> GatedDeltaCard:
    key_heads = fields.count("linear_num_key_heads")
    value_heads = fields.count("linear_num_value_heads")
    if value_heads % key_heads:
        raise fields.error("linear_num_value_heads", f"a multiple of the {key_heads} key heads")
    return GatedDeltaCard(
        key_heads=key_heads,
        value_heads=value_heads,
        key_dim=fields.count("linear_key_head_dim"),
        value_dim=fields.count("linear_value_head_dim"),
        kernel=fields.count("linear_conv_kernel_dim"),
        unit_eps=UNIT_EPS,
    )


def _attention(
    source: Source, layer: str, config: ModelConfig, card: LayerCard, names: Names
) -> AttentionParams | GatedDeltaParams:
    """Full attention, whose q_proj holds of each head the query's rows, then the gate's."""
    if isinstance(card, GatedDeltaCard):
        return _gated_delta(source, layer, config, card, names)
    card = expect_attention(card, layer)
    H, D, name = config.hidden_size, config.head_dim, f"{layer}.self_attn"
    queries, keys = config.heads * D, config.kv_heads * D
    rows = source.new(2 * (queries + keys), H)  # gate, queries, keys, values

    def apart(stored: Array) -> Array:
        return stored.reshape(config.heads, 2, D, H)[:, ::-1].swapaxes(0, 1).reshape(-1, H)

    source.fill(f"{name}.q_proj.weight", rows[: 2 * queries], (2 * queries, H), apart)
    source.fill(f"{name}.k_proj.weight", rows[2 * queries : 2 * queries + keys])
    source.fill(f"{name}.v_proj.weight", rows[2 * queries + keys :])
    cached = source.cached(name)
    return AttentionParams(
        key_format=cached[0],
        value_format=cached[1],
        norm=read_norm(source, f"{layer}.input_layernorm.weight", names, H),
        qkv=source.weight(rows[queries:], [[f"{name}.{letter}_proj.weight" for letter in "qkv"]]),
        qk_norm=load_head_norms(source, layer, config, card, names),
        out=read_weight(source, f"{name}.o_proj.weight", H, queries),
        gate=source.weight(rows[:queries], [[f"{name}.q_proj.weight"]]),
    )


def _gated_delta(
    source: Source, layer: str, config: ModelConfig, card: GatedDeltaCard, names: Names
) -> GatedDeltaParams:
    """The delta net. Rows stored key head by key head are put apart: all queries first."""
    H, name, heads = config.hidden_size, f"{layer}.linear_attn", card.key_heads
    values = card.value_heads * card.value_dim
    qkvz, ba = source.new(card.channels + values, H), source.new(2 * card.value_heads, H)
    of_values = values // heads  # rows of a key head's values
    ends = np.cumsum([card.key_dim, card.key_dim, of_values])

    def apart(stored: Array, cuts: list[int]) -> Array:
        grouped = stored.reshape(heads, -1, H)
        parts = np.split(grouped, cuts, axis=1)
        return np.concatenate([part.reshape(-1, H) for part in parts])

    source.fill(
        f"{name}.in_proj_qkvz.weight", qkvz, qkvz.shape, lambda stored: apart(stored, [*ends])
    )
    half = card.value_heads // heads
    source.fill(f"{name}.in_proj_ba.weight", ba, ba.shape, lambda stored: apart(stored, [half]))
    conv = source.new(card.channels, card.kernel)
    stored_conv = (card.channels, 1, card.kernel)
    source.fill(f"{name}.conv1d.weight", conv, stored_conv, lambda stored: stored[:, 0])
    return GatedDeltaParams(
        norm=read_norm(source, f"{layer}.input_layernorm.weight", names, H),
        qkvz=source.weight(qkvz, [[f"{name}.in_proj_qkvz.weight"]]),
        ba=source.weight(ba, [[f"{name}.in_proj_ba.weight"]]),
        conv=conv,
        a_log=read(source, f"{name}.A_log", card.value_heads),
        dt_bias=read(source, f"{name}.dt_bias", card.value_heads),
        out_norm=read(source, f"{name}.norm.weight", card.value_dim),
        out=read_weight(source, f"{name}.out_proj.weight", H, values),
    )


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return load_model(source, config, NAMES, attention=_attention)

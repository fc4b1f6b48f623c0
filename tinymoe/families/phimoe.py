"""Phi-3.5-MoE: LayerNorm, biases on attention and head, two experts chosen one after the other.

microsoft/Phi-3.5-MoE-instruct. Checked against transformers' `phimoe`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinymoe.cards import AttentionCard, LayerCard, LongRopeScaling, ModelConfig, full_attention
from tinymoe.families.common import (
    Sizes,
    all_moe,
    assemble,
    plain_router,
    read_sizes,
    refuse_unknown_arithmetic,
)
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.rope_fields import read_rope, rope_object
from tinymoe.families.standard import Names, load_attention, load_model, load_moe
from tinymoe.families.tensors import Source, read
from tinymoe.model.params import AttentionParams, MoeParams, Params
from tinymoe.model.router import MIXER_EPSILON

NAMES = Names(
    router="block_sparse_moe.gate.weight",
    expert="block_sparse_moe.experts.{}",
    gate="w1",
    up="w3",
    down="w2",
)
PHI_HARMLESS = HARMLESS | {"attention_dropout", "input_jitter_noise", "hidden_dropout"}


def read_config(config: dict[str, Any], positions: int | None = None) -> ModelConfig:
    """config.json, for sequences of at most `positions`, which longrope must know beforehand.

    In a sequence longer than original_max_position_embeddings all angles are others, those of
    the keys in the cache as well: one that grows past it would change its past. So the longest
    sequence wanted decides, as vLLM's max_model_len does: up to the original positions (or None)
    the short factors, and the positions end there; beyond them the long ones, for all sequences.
    transformers 5.23 takes the short factors with long_mscale past them, which no file asks for.
    """
    fields = Fields(config)
    refuse_unknown_arithmetic(fields)
    fields.only("router_jitter_noise", MIXER_EPSILON)  # at inference a threshold, not a noise
    fields.only("num_experts_per_tok", 2)
    sizes, layers = read_sizes(fields), all_moe(fields)
    window = fields.take("sliding_window", None)
    if window is not None and window < fields.count("max_position_embeddings"):
        raise fields.unsupported("sliding_window")
    card, original = _attention_card(fields, sizes, positions)
    bias = fields.flag("attention_bias", False)
    router = plain_router(fields, "num_local_experts", "num_experts")
    fields.only("lm_head_bias", True)
    result = assemble(
        fields,
        sizes,
        family="phimoe",
        layers=layers,
        attention=replace(card, qkv_bias=bias, out_bias=bias),
        router=replace(router, score="identity", weight_from="sparsemixer"),
        moe_intermediate=fields.count("intermediate_size"),
        dense_intermediate=0,
        default_eps=1e-5,
        norm="layer",
    )
    fields.take("original_max_position_embeddings", None)
    fields.finish(PHI_HARMLESS)
    if original is None or original >= result.max_positions:
        return result
    return replace(result, max_positions=original, more_positions=result.max_positions)


def _attention_card(
    fields: Fields, sizes: Sizes, positions: int | None
) -> tuple[AttentionCard, int | None]:
    """The card, and the positions that the short factors are for, where they are taken."""
    scaling, original = None, None
    for name in ("rope_scaling", "rope_parameters"):
        if name not in fields:
            continue
        rope = rope_object(fields, name)
        if "longrope" not in (rope.take("type", None), rope.take("rope_type", None)):
            continue
        where = rope if "original_max_position_embeddings" in rope else fields
        original = where.count("original_max_position_embeddings")
        size = "short" if positions is None or positions <= original else "long"
        original = original if size == "short" else None
        factors = rope.take(f"{size}_factor")
        half = sizes.head_dim // 2
        if not isinstance(factors, list) or len(factors) != half:
            raise rope.error(f"{size}_factor", f"a list of {half} numbers")
        if not all(type(f) in (int, float) and f > 0 for f in factors):
            raise rope.error(f"{size}_factor", "a list of positive numbers")
        scaling = LongRopeScaling(
            factors=tuple(map(float, factors)), attention_factor=rope.positive(f"{size}_mscale")
        )
    rope_card = read_rope(fields, sizes.head_dim, types=("longrope",))
    return full_attention(sizes.head_dim, replace(rope_card, scaling=scaling)), original


def _attention(
    source: Source, layer: str, config: ModelConfig, card: LayerCard, names: Names
) -> AttentionParams:
    bias = read(source, f"{layer}.input_layernorm.bias", config.hidden_size)
    return replace(load_attention(source, layer, config, card, names), norm_bias=bias)


def _moe(source: Source, layer: str, config: ModelConfig, names: Names) -> MoeParams:
    bias = read(source, f"{layer}.post_attention_layernorm.bias", config.hidden_size)
    return replace(load_moe(source, layer, config, names), norm_bias=bias)


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return replace(
        load_model(source, config, NAMES, attention=_attention, experts=_moe),
        final_norm_bias=read(source, "model.norm.bias", config.hidden_size),
        head_bias=read(source, "lm_head.bias", config.vocab_size),
    )

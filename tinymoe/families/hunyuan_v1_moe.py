"""Hunyuan-A13B: heads normed after rope, one shared expert, a base stretched by a fixed alpha.

tencent/Hunyuan-A13B. Checked against transformers' `hunyuan_v1_moe`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinymoe.cards import ModelConfig, RopeCard, full_attention
from tinymoe.families.common import (
    all_moe,
    assemble,
    plain_router,
    read_sizes,
    refuse_unknown_arithmetic,
    shared_card,
)
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.rope_fields import read_rope, rope_object
from tinymoe.families.standard import Names, load_model
from tinymoe.families.tensors import Source
from tinymoe.model.params import Params

NAMES = Names(
    q_norm="self_attn.query_layernorm.weight",
    k_norm="self_attn.key_layernorm.weight",
    router="mlp.gate.wg.weight",
    shared="mlp.shared_mlp",
)
# token ids, training, and the sizes of parts that `_refuse_variants` makes sure are not there
HUNYUAN_HARMLESS = HARMLESS | {
    *("attention_dropout", "eod_token_id", "sep_token_id", "pad_id", "pretraining_tp"),
    *("moe_drop_tokens", "moe_random_routing_dropped_token", "cla_share_factor"),
    *("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
    *("attention_head_dim", "org_vocab_size", "mask_init_id", "routed_scaling_factor"),
}


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json; per-layer lists must hold one number, as they do in the releases."""
    config = _one_for_all(config)
    fields = Fields(config)
    refuse_unknown_arithmetic(fields)
    _refuse_variants(fields)
    sizes, layers = read_sizes(fields), all_moe(fields)
    card = full_attention(sizes.head_dim, _rope(fields, sizes.head_dim))
    router = plain_router(fields, "num_experts", "num_local_experts", k="moe_topk")
    fields.only("num_experts_per_tok", None, router.top_k)
    width = fields.count("intermediate_size")
    fields.only("moe_intermediate_size", None, width)
    fields.only("num_shared_expert", None, 1)
    result = assemble(
        fields,
        sizes,
        family="hunyuan_v1_moe",
        layers=layers,
        attention=replace(card, qk_norm="per_head", qk_norm_after_rope=True),
        router=replace(router, renormalise=True, logits_dtype="float32"),
        moe_intermediate=width,
        dense_intermediate=0,
        default_eps=1e-5,
        experts=shared_card("added", width),
    )
    fields.finish(HUNYUAN_HARMLESS)
    return result


def _one_for_all(config: dict[str, Any]) -> dict[str, Any]:
    """Lists with one number a layer as that number, where it is the same in every layer."""
    names = ("moe_topk", "num_experts", "moe_intermediate_size", "num_shared_expert")
    result = dict(config)
    for name in names:
        value = config.get(name)
        if isinstance(value, list) and value and all(entry == value[0] for entry in value):
            result[name] = value[0]
    return result


def _refuse_variants(fields: Fields) -> None:
    """Switches of the releases whose other setting is other arithmetic."""
    for name in ("attention_bias", "mlp_bias", "use_cla", "use_mla"):
        fields.only(name, None, False)
    for name in ("use_qk_norm", "use_mixed_mlp_moe", "use_rotary_pos_emb", "norm_topk_prob"):
        fields.only(name, None, True)
    fields.only("norm_type", None, "rms")
    fields.only("moe_layer_num_skipped", None, 0)
    fields.only("group_limited_greedy", None, False)
    fields.only("n_group", None, 1, False)
    fields.only("topk_group", None, 1, False)


def _rope(fields: Fields, head_dim: int) -> RopeCard:
    """An alpha is a longer base at every length: theta * alpha^(d / (d - 2))."""
    alpha = 1.0
    for name in ("rope_scaling", "rope_parameters"):
        if name in fields:
            rope = rope_object(fields, name)
            dynamic = "dynamic" in (rope.take("type", None), rope.take("rope_type", None))
            alpha = rope.positive("alpha") if dynamic else alpha
    card = read_rope(fields, head_dim, types=("linear", "dynamic"))
    return replace(card, theta=card.theta * alpha ** (head_dim / (head_dim - 2)))


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return load_model(source, config, NAMES)

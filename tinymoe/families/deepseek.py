"""DeepSeek-V2, V3, R1 and Kimi-K2: multi-head latent attention, grouped experts, shared experts.

deepseek-ai/DeepSeek-V2 (and Lite), DeepSeek-V3, moonshotai/Kimi-K2 (`kimi_k2`: V3 with one
group). Checked against transformers' `deepseek_v2` and `deepseek_v3`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinymoe.cards import (
    LatentCard,
    LayerCard,
    ModelConfig,
    RouterCard,
    full_attention,
)
from tinymoe.core import TinymoeError
from tinymoe.families.common import (
    Sizes,
    assemble,
    biased_sigmoid_router,
    dense_first,
    plain_router,
    read_groups,
    refuse_unknown_arithmetic,
    shared_card,
)
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.rope_fields import read_rope, yarn_score_factor
from tinymoe.families.standard import Names, expect_attention, load_model
from tinymoe.families.tensors import Source, read, read_weight
from tinymoe.model.params import LatentParams, Params

NAMES = Names()
LATENT_EPS = 1e-6  # of the norms inside attention, whatever rms_norm_eps says
# ep_size and pretraining_tp are of training; num_nextn_predict_layers lie past the last layer;
# head_dim and qk_head_dim repeat sums of the sizes that are read
DEEPSEEK_HARMLESS = HARMLESS | {
    *("attention_dropout", "aux_loss_alpha", "seq_aux", "ep_size", "pretraining_tp"),
    *("num_nextn_predict_layers", "num_mtp_layers", "head_dim", "qk_head_dim"),
}


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json of any of them; `model_type` decides the router."""
    fields = Fields(config)
    family = fields.take("model_type")
    refuse_unknown_arithmetic(fields)
    fields.only("mlp_bias", None, False)
    fields.only("rope_interleave", None, True)
    layers = dense_first(fields)
    latent = _latent(fields)
    heads = fields.count("num_attention_heads")
    fields.only("num_key_value_heads", None, heads)
    sizes = Sizes(
        hidden=fields.count("hidden_size"),
        heads=heads,
        kv_heads=heads,
        head_dim=latent.nope_dim + latent.rope_dim,
    )
    rope = read_rope(fields, latent.rope_dim, pairing="interleaved")
    card = replace(
        full_attention(sizes.head_dim, rope),
        scale=sizes.head_dim**-0.5 * yarn_score_factor(config),
        qkv_bias=fields.flag("attention_bias", False),
        latent=latent,
    )
    width = fields.count("moe_intermediate_size")
    shared = fields.count("n_shared_experts") if "n_shared_experts" in fields else 0
    fields.take("n_shared_experts", None)
    result = assemble(
        fields,
        sizes,
        family=family,
        layers=layers,
        attention=replace(card, out_bias=card.qkv_bias),
        router=_softmax_router(fields)
        if family == "deepseek_v2"
        else biased_sigmoid_router(fields),
        moe_intermediate=width,
        dense_intermediate=fields.count("intermediate_size"),
        default_eps=1e-6,
        experts=shared_card("added", width * shared),
    )
    fields.finish(DEEPSEEK_HARMLESS)
    return result


def _latent(fields: Fields) -> LatentCard:
    """Sizes of the latent vectors and of a head's parts. `q_lora_rank` null: one query matrix."""
    query_rank = fields.count("q_lora_rank") if "q_lora_rank" in fields else None
    fields.take("q_lora_rank", None)
    return LatentCard(
        query_rank=query_rank,
        rank=fields.count("kv_lora_rank"),
        nope_dim=fields.count("qk_nope_head_dim"),
        rope_dim=fields.count("qk_rope_head_dim"),
        value_dim=fields.count("v_head_dim"),
        norm_eps=LATENT_EPS,
        form="expanded",
    )


def _softmax_router(fields: Fields) -> RouterCard:
    """DeepSeek-V2: softmax; greedy, or the best groups by their best member; then the factor."""
    fields.only("scoring_func", None, "softmax")
    fields.only("norm_topk_prob", None, False)  # true would divide and leave the factor out
    card = plain_router(fields, "n_routed_experts", "num_experts")
    card = replace(card, scale=fields.positive("routed_scaling_factor"), logits_dtype="float32")
    method = fields.take("topk_method", "greedy")
    groups, kept = read_groups(fields, card.experts, card.top_k)
    if method == "greedy":
        return card
    if method != "group_limited_greedy":
        raise fields.error("topk_method", "'greedy' or 'group_limited_greedy'")
    return replace(card, groups=groups, groups_kept=kept, group_score="max", dropped_group="zero")


def _attention(
    source: Source, layer: str, config: ModelConfig, card: LayerCard, names: Names
) -> LatentParams:
    """Latent attention; biases on what leads down and on the output."""
    card = expect_attention(card, layer)
    latent, H, name = card.latent, config.hidden_size, f"{layer}.self_attn"
    if latent is None:
        raise TinymoeError(f"{layer}: expected a card with latent attention")
    R, low, heads = latent.rank, latent.query_rank, config.heads

    def matrix(part: str, rows: int, columns: int) -> Any:
        return read_weight(source, f"{name}.{part}.weight", rows, columns)

    def bias(part: str, rows: int) -> Any:
        return read(source, f"{name}.{part}.bias", rows) if card.qkv_bias else None

    up = source.new(heads, latent.nope_dim + latent.value_dim, R)
    rows = heads * (latent.nope_dim + latent.value_dim)
    source.fill(f"{name}.kv_b_proj.weight", up, (rows, R), lambda flat: flat.reshape(up.shape))
    if any(source.cached(name)):
        raise TinymoeError(
            f"{name}: an FP8 cache of latent attention, which keeps other numbers than keys and "
            "values of heads, is not emulated; use the numerics 'bf16', which do not quantise it"
        )
    down_rows, query_rows = R + latent.rope_dim, heads * config.head_dim
    return LatentParams(
        norm=read(source, f"{layer}.input_layernorm.weight", H),
        query_down=matrix("q_a_proj", low, H) if low else None,
        query_down_bias=bias("q_a_proj", low) if low else None,
        query_norm=read(source, f"{name}.q_a_layernorm.weight", low) if low else None,
        query=matrix("q_b_proj", query_rows, low) if low else matrix("q_proj", query_rows, H),
        down=matrix("kv_a_proj_with_mqa", down_rows, H),
        down_bias=bias("kv_a_proj_with_mqa", down_rows),
        latent_norm=read(source, f"{name}.kv_a_layernorm.weight", R),
        up=source.weight(up, [[f"{name}.kv_b_proj.weight"]]),
        out=matrix("o_proj", H, heads * latent.value_dim),
        out_bias=bias("o_proj", H),
    )


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return load_model(source, config, NAMES, attention=_attention)

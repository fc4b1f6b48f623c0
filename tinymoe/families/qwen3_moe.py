"""Qwen3-MoE: grouped-query attention with normed heads, softmax router, no shared expert.

Qwen/Qwen3-30B-A3B and its kin. Checked against transformers' `qwen3_moe`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array, ModelConfig, Numerics, RopeCard, RouterCard, TinymoeError
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.tensors import Expected, check_tensors
from tinymoe.model.params import (
    AttentionParams,
    DenseParams,
    LayerParams,
    MoeParams,
    Params,
    aligned_empty,
)

DEFAULT_EPS = 1e-6  # of the family's own configuration class, where the key is missing
MOST_LAYERS, MOST_EXPERTS = 1024, 4096  # several times any model's; caps what a config can ask

# attention_dropout is for training; max_window_layers counts layers of a sliding window, and a
# window in use is refused
QWEN3_HARMLESS = HARMLESS | {"attention_dropout", "max_window_layers"}


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json in either style: 4.x (`rope_theta`) or 5.x (`rope_parameters`)."""
    fields = Fields(config)
    _refuse_variants(fields)
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    kv_heads = fields.count("num_key_value_heads") if "num_key_value_heads" in fields else heads
    fields.take("num_key_value_heads")  # null means one for each query head; missing is an error
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", f"a divisor of the {heads} attention heads")
    head_dim = _head_dim(fields, hidden, heads)
    layers = _layer_kinds(fields)
    result = ModelConfig(
        family="qwen3_moe",
        vocab_size=fields.count("vocab_size"),
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        qk_norm=True,
        attention_scale=head_dim**-0.5,
        rope=RopeCard(theta=_rope_theta(fields), rotary_dim=head_dim, pairing="half"),
        rms_norm_eps=fields.positive("rms_norm_eps", DEFAULT_EPS),
        norm_rounds_before_weight=True,
        dense_intermediate=fields.count("intermediate_size"),
        moe_intermediate=fields.count("moe_intermediate_size"),
        router=_router_card(fields),
        tied_head=fields.flag("tie_word_embeddings"),
        max_positions=fields.count("max_position_embeddings"),
    )
    fields.finish(QWEN3_HARMLESS)
    return result


def _refuse_variants(fields: Fields) -> None:
    """Fields whose other values ask for arithmetic that this file does not have."""
    fields.only("hidden_act", "silu")
    fields.only("attention_bias", None, False)
    fields.only("qkv_bias", None, False)
    fields.only("use_qk_norm", None, True)
    fields.only("shared_expert_intermediate_size", None, 0)
    fields.only("quantization_config", None)
    window = fields.take("sliding_window", None)
    if fields.take("use_sliding_window", window is not None) is not False and window is not None:
        raise fields.unsupported("sliding_window")
    kinds = fields.take("layer_types", None)
    full = isinstance(kinds, list) and all(kind == "full_attention" for kind in kinds)
    if kinds is not None and not full:
        raise fields.unsupported("layer_types")


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    """Its own key; hidden / heads where that is null or missing. Even, as rope turns pairs."""
    if "head_dim" in fields:
        head_dim = fields.count("head_dim")
    else:
        fields.take("head_dim", None)
        head_dim = hidden // heads
        if hidden % heads:
            raise fields.error("head_dim", f"given, as {hidden} / {heads} is not whole")
    if head_dim % 2:
        raise fields.error("head_dim", f"even: rope turns pairs of dimensions (it is {head_dim})")
    return head_dim


def _layer_kinds(fields: Fields) -> tuple[Literal["moe", "dense"], ...]:
    """Layer i has experts if (i + 1) % decoder_sparse_step is 0 and it is not listed as dense."""
    number = fields.count("num_hidden_layers", most=MOST_LAYERS)
    step = fields.count("decoder_sparse_step")
    dense = fields.take("mlp_only_layers", None)
    dense = [] if dense is None else dense
    if not isinstance(dense, list) or not all(type(i) is int and 0 <= i < number for i in dense):
        raise fields.error("mlp_only_layers", f"a list of layers from 0 to {number - 1}")
    return tuple(
        "dense" if i in dense or (i + 1) % step else "moe"  # null: none is dense
        for i in range(number)
    )


def _rope_theta(fields: Fields) -> float:
    """The base, from `rope_theta` or `rope_parameters`; any scaling is refused by name."""
    if "rope_scaling" in fields:
        _plain_rope(fields, "rope_scaling")
    fields.take("rope_scaling", None)
    bases = [fields.positive("rope_theta")] if "rope_theta" in fields else []
    if "rope_parameters" in fields:
        bases += _plain_rope(fields, "rope_parameters")
    for name in ("rope_theta", "rope_parameters"):
        fields.take(name, None)
    if not bases:
        raise TinymoeError(f"{fields.where}: expected 'rope_theta', or 'rope_parameters' with it")
    if min(bases) != max(bases):
        raise fields.error("rope_theta", f"the same everywhere; rope_parameters has {bases[1]}")
    return bases[0]


def _plain_rope(fields: Fields, name: str) -> list[float]:
    """The base that a rope object holds, if any; its type must be the default, unscaled one."""
    value = fields.take(name)
    if not isinstance(value, dict):
        raise fields.error(name, "an object or null")
    rope = Fields(value, f"{fields.where}: {name}")
    for key in ("rope_type", "type"):
        rope.only(key, None, "default")
    rope.only("partial_rotary_factor", None, 1, 1.0)
    bases = [rope.positive("rope_theta")] if "rope_theta" in rope else []
    rope.finish(frozenset())
    return bases


def _router_card(fields: Fields) -> RouterCard:
    """Softmax over all experts, then the K largest; divided by their sum if the config says so."""
    names = [name for name in ("num_experts", "num_local_experts") if name in fields]
    if not names:
        raise TinymoeError(f"{fields.where}: expected 'num_experts' (or 'num_local_experts')")
    counts = [fields.count(name, most=MOST_EXPERTS) for name in names]
    if min(counts) != max(counts):
        raise fields.error("num_local_experts", f"num_experts, {counts[0]}")
    top_k = fields.count("num_experts_per_tok")
    if top_k > counts[0]:
        raise fields.error("num_experts_per_tok", f"at most the number of experts, {counts[0]}")
    return RouterCard(
        experts=counts[0],
        top_k=top_k,
        score="softmax",
        selection_bias=False,
        groups=1,
        groups_kept=1,
        group_score="none",
        dropped_group="none",
        weight_from="score",
        renormalise=fields.flag("norm_topk_prob"),
        renorm_epsilon=0.0,
        renorm_floor=0.0,
        scale=1.0,
        weight_on="output",
        logits_dtype="model",
        bias_dtype="model",
        tie_rule="lowest_index",
    )


# ------------------------------------------------------------------------------- the tensors


def expected_tensors(config: ModelConfig) -> Iterator[Expected]:
    """Name and shape of every tensor that such a checkpoint holds, layer by layer."""
    H, D = config.hidden_size, config.head_dim
    yield "model.embed_tokens.weight", (config.vocab_size, H)
    yield "model.norm.weight", (H,)
    if not config.tied_head:
        yield "lm_head.weight", (config.vocab_size, H)
    for index, kind in enumerate(config.layers):
        layer = f"model.layers.{index}"
        yield f"{layer}.input_layernorm.weight", (H,)
        yield f"{layer}.post_attention_layernorm.weight", (H,)
        yield f"{layer}.self_attn.q_proj.weight", (config.heads * D, H)
        yield f"{layer}.self_attn.k_proj.weight", (config.kv_heads * D, H)
        yield f"{layer}.self_attn.v_proj.weight", (config.kv_heads * D, H)
        yield f"{layer}.self_attn.o_proj.weight", (H, config.heads * D)
        yield f"{layer}.self_attn.q_norm.weight", (D,)
        yield f"{layer}.self_attn.k_norm.weight", (D,)
        if kind == "dense":
            yield from _expected_ffn(f"{layer}.mlp", config.dense_intermediate, H)
            continue
        yield f"{layer}.mlp.gate.weight", (config.router.experts, H)
        for expert in range(config.router.experts):
            yield from _expected_ffn(f"{layer}.mlp.experts.{expert}", config.moe_intermediate, H)


def _expected_ffn(name: str, width: int, H: int) -> Iterator[Expected]:
    yield f"{name}.gate_proj.weight", (width, H)
    yield f"{name}.up_proj.weight", (width, H)
    yield f"{name}.down_proj.weight", (H, width)


def load_params(checkpoint: Checkpoint, config: ModelConfig, numerics: Numerics) -> Params:
    """Every weight in `numerics.dtype`, exactly as stored; checked before memory is taken."""
    check_tensors(checkpoint, lambda: expected_tensors(config), config.num_layers)
    dtype = numerics.dtype
    embed = checkpoint.read("model.embed_tokens.weight", dtype)
    return Params(
        embed=embed,
        layers=tuple(
            LayerParams(
                attention=_attention(checkpoint, f"model.layers.{index}", config, dtype),
                ffn=_ffn(checkpoint, f"model.layers.{index}", kind, config, dtype),
            )
            for index, kind in enumerate(config.layers)
        ),
        final_norm=checkpoint.read("model.norm.weight", dtype),
        head=embed if config.tied_head else checkpoint.read("lm_head.weight", dtype),
    )


def _attention(
    checkpoint: Checkpoint, layer: str, config: ModelConfig, dtype: np.dtype[Any]
) -> AttentionParams:
    def read(name: str) -> Array:
        return checkpoint.read(f"{layer}.{name}.weight", dtype)

    q_rows, kv_rows = config.heads * config.head_dim, config.kv_heads * config.head_dim
    qkv = aligned_empty((q_rows + 2 * kv_rows, config.hidden_size), dtype)
    checkpoint.read_into(f"{layer}.self_attn.q_proj.weight", qkv[:q_rows])
    checkpoint.read_into(f"{layer}.self_attn.k_proj.weight", qkv[q_rows : q_rows + kv_rows])
    checkpoint.read_into(f"{layer}.self_attn.v_proj.weight", qkv[q_rows + kv_rows :])
    q_norm, k_norm = read("self_attn.q_norm"), read("self_attn.k_norm")  # (D,) for all heads
    return AttentionParams(
        norm=read("input_layernorm"),
        qkv=qkv,
        qk_norm=np.concatenate(
            [np.tile(q_norm, (config.heads, 1)), np.tile(k_norm, (config.kv_heads, 1))]
        ),
        out=read("self_attn.o_proj"),
    )


def _ffn(
    checkpoint: Checkpoint, layer: str, kind: str, config: ModelConfig, dtype: np.dtype[Any]
) -> MoeParams | DenseParams:
    """Gate and up rows land in one matrix, gate first; experts in one stack, read in place."""
    H, E = config.hidden_size, config.router.experts
    norm = checkpoint.read(f"{layer}.post_attention_layernorm.weight", dtype)
    if kind == "dense":
        W = config.dense_intermediate
        gate_up, down = aligned_empty((2 * W, H), dtype), aligned_empty((H, W), dtype)
        _read_expert(checkpoint, f"{layer}.mlp", gate_up, down)
        return DenseParams(norm=norm, gate_up=gate_up, down=down)
    width = config.moe_intermediate
    gate_up, down = aligned_empty((E, 2 * width, H), dtype), aligned_empty((E, H, width), dtype)
    for expert in range(E):
        _read_expert(checkpoint, f"{layer}.mlp.experts.{expert}", gate_up[expert], down[expert])
    router = checkpoint.read(f"{layer}.mlp.gate.weight", dtype)
    return MoeParams(norm=norm, router=router, selection_bias=None, gate_up=gate_up, down=down)


def _read_expert(checkpoint: Checkpoint, name: str, gate_up: Array, down: Array) -> None:
    """Fill gate_up (2I, H) and down (H, I) in place."""
    width = len(gate_up) // 2
    checkpoint.read_into(f"{name}.gate_proj.weight", gate_up[:width])
    checkpoint.read_into(f"{name}.up_proj.weight", gate_up[width:])
    checkpoint.read_into(f"{name}.down_proj.weight", down)

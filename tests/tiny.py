"""A random model of a few thousand numbers, for tests that need any model at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tinymoe.cards import NO_MULTIPLIERS, PLAIN_SWIGLU, full_attention
from tinymoe.core import NUMERICS, Array, AttentionCard, ModelConfig, Numerics, RopeCard, RouterCard
from tinymoe.model.params import AttentionParams, DenseParams, LayerParams, MoeParams, Params
from tinymoe.model.precision import store


def tiny_card(**changes: Any) -> RouterCard:
    """Six experts, two chosen, softmax then renormalise: a Qwen3 router in small."""
    fields: dict[str, Any] = {
        "experts": 6,
        "top_k": 2,
        "score": "softmax",
        "selection_bias": False,
        "groups": 1,
        "groups_kept": 1,
        "group_score": "none",
        "dropped_group": "none",
        "weight_from": "score",
        "renormalise": True,
        "renorm_epsilon": 0.0,
        "renorm_floor": 0.0,
        "scale": 1.0,
        "weight_on": "output",
        "logits_dtype": "model",
        "bias_dtype": "float32",
        "tie_rule": "lowest_index",
    }
    return RouterCard(**{**fields, **changes})


def tiny_attention(**changes: Any) -> AttentionCard:
    """Four heads of 8 with normed queries and keys, all keys seen."""
    rope = RopeCard(theta=1e4, rotary_dim=8, pairing="half", scaling=None)
    return replace(full_attention(8, rope), qk_norm="per_head", **changes)


def tiny_config(**changes: Any) -> ModelConfig:
    """A dense and an MoE layer, H 32, four query heads on two key heads, V 50."""
    fields: dict[str, Any] = {
        "family": "tiny",
        "vocab_size": 50,
        "hidden_size": 32,
        "layers": ("dense", "moe"),
        "attention": (tiny_attention(),) * 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "norm": "rms",
        "rms_norm_eps": 1e-6,
        "norm_rounds_before_weight": True,
        "dense_intermediate": 24,
        "moe_intermediate": 12,
        "experts": PLAIN_SWIGLU,
        "router": tiny_card(),
        "multipliers": NO_MULTIPLIERS,
        "residual": None,
        "tied_head": False,
        "max_positions": 64,
    }
    return ModelConfig(**{**fields, **changes})


def tiny_params(
    config: ModelConfig, numerics: Numerics = NUMERICS["fp32"], seed: int = 0
) -> Params:
    """Weights such that activations stay near 1 and attention and router have opinions."""
    rng, h, d = np.random.default_rng(seed), config.hidden_size, config.head_dim

    def matrix(*shape: int) -> Array:
        values = rng.normal(size=shape) * 2 / shape[-1] ** 0.5
        return store(values.astype(np.float32), "bfloat16").astype(numerics.dtype)

    def norm(*shape: int) -> Array:
        values = rng.uniform(0.5, 2, shape).astype(np.float32)
        return store(values, "bfloat16").astype(numerics.dtype)

    def layer(kind: str) -> LayerParams:
        attention = AttentionParams(
            norm=norm(h),
            qkv=matrix((config.heads + 2 * config.kv_heads) * d, h),
            qk_norm=norm(config.heads + config.kv_heads, d),
            out=matrix(h, config.heads * d),
        )
        if kind == "dense":
            width = config.dense_intermediate
            dense = DenseParams(norm=norm(h), gate_up=matrix(2 * width, h), down=matrix(h, width))
            return LayerParams(attention=attention, ffn=dense)
        card, width = config.router, config.moe_intermediate
        moe = MoeParams(
            norm=norm(h),
            router=matrix(card.experts, h),
            selection_bias=norm(card.experts) if card.selection_bias else None,
            gate_up=matrix(card.experts, 2 * width, h),
            down=matrix(card.experts, h, width),
        )
        return LayerParams(attention=attention, ffn=moe)

    embed = matrix(config.vocab_size, h)
    return Params(
        embed=embed,
        layers=tuple(layer(kind) for kind in config.layers),
        final_norm=norm(h),
        head=embed if config.tied_head else matrix(config.vocab_size, h),
    )

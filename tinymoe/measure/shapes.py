"""The shapes of the random models that can be measured, and what a shape costs: counts, bytes.

"small" and "medium" are the two random models that the speed table compares engines on, of
Qwen3-MoE's kind. Beside each stand models of the same size of DeepSeek-V3's kind (latent
attention, groups, a shared expert) and of gpt-oss's (sinks, every other layer a window, biases).
"shipped" is the shape of the model in `weights/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from tinymoe.cards import NO_MULTIPLIERS, PLAIN_SWIGLU, full_attention
from tinymoe.core import Array, ModelConfig, RopeCard, TinymoeError
from tinymoe.families import read_config
from tinymoe.families.common import softmax_router
from tinymoe.model.fresh import fresh_params


def shape(
    *,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    experts: int,
    top_k: int,
    moe_intermediate: int,
    vocab: int,
    tied: bool,
    positions: int,
    head_dim: int = 64,
) -> ModelConfig:
    """A Qwen3-MoE of the given sizes, a mixture in every layer."""
    kind: Literal["moe"] = "moe"
    rope = RopeCard(theta=10_000.0, rotary_dim=head_dim, pairing="half", scaling=None)
    card = replace(full_attention(head_dim, rope), qk_norm="per_head")
    return ModelConfig(
        family="qwen3_moe",
        vocab_size=vocab,
        hidden_size=hidden,
        layers=(kind,) * layers,
        attention=(card,) * layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm="rms",
        rms_norm_eps=1e-6,
        norm_rounds_before_weight=True,
        dense_intermediate=0,
        moe_intermediate=moe_intermediate,
        experts=PLAIN_SWIGLU,
        router=replace(softmax_router(experts, top_k), renormalise=True),  # as Qwen3-MoE
        multipliers=NO_MULTIPLIERS,
        residual=None,
        tied_head=tied,
        max_positions=positions,
    )


SMALL: Mapping[str, int] = {
    "num_hidden_layers": 8, "hidden_size": 256, "num_attention_heads": 4, "vocab_size": 4096,
    "num_experts_per_tok": 2, "max_position_embeddings": 4096,
}  # fmt: skip
MEDIUM: Mapping[str, int] = {
    "num_hidden_layers": 16, "hidden_size": 1024, "num_attention_heads": 16, "vocab_size": 32_768,
    "num_experts_per_tok": 4, "max_position_embeddings": 4096,
}  # fmt: skip


def deepseek(sizes: Mapping[str, int], *, experts: int, width: int, rank: int) -> ModelConfig:
    """DeepSeek-V3's kind: its config.json with these sizes, half of four groups, one dense layer.

    `rank` of keys and values; the query's is half as much again. A dense layer is as wide as the
    experts that a token meets, the shared one among them.
    """
    met = sizes["num_experts_per_tok"] + 1
    config: dict[str, Any] = {
        **sizes,
        "model_type": "deepseek_v3", "hidden_act": "silu", "tie_word_embeddings": False,
        "rope_theta": 10_000.0,
        "first_k_dense_replace": 1, "intermediate_size": met * width,
        "n_routed_experts": experts, "n_shared_experts": 1, "moe_intermediate_size": width,
        "n_group": 4, "topk_group": 2, "norm_topk_prob": True, "routed_scaling_factor": 2.5,
        "num_key_value_heads": sizes["num_attention_heads"], "kv_lora_rank": rank,
        "q_lora_rank": rank * 3 // 2, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32,
        "v_head_dim": 64,
    }  # fmt: skip
    return read_config(config)


def gpt_oss(sizes: Mapping[str, int], *, experts: int, width: int, kv_heads: int) -> ModelConfig:
    """gpt-oss's kind: its config.json with these sizes, windows of 128 keys as it has them."""
    config: dict[str, Any] = {
        **sizes,
        "model_type": "gpt_oss", "hidden_act": "silu", "tie_word_embeddings": False,
        "rope_theta": 150_000.0,
        "num_local_experts": experts, "intermediate_size": width, "head_dim": 64,
        "num_key_value_heads": kv_heads, "sliding_window": 128, "swiglu_limit": 7.0,
    }  # fmt: skip
    return read_config(config)


SHAPES: Mapping[str, ModelConfig] = {
    "shipped": shape(  # 15.2 M parameters, 5.8 M active
        hidden=256, layers=8, heads=4, kv_heads=2, experts=16, top_k=4,
        moe_intermediate=128, vocab=4096, tied=True, positions=1024,
    ),
    "small": shape(  # 22.6 M, 6.1 M active
        hidden=256, layers=8, heads=4, kv_heads=2, experts=16, top_k=2,
        moe_intermediate=192, vocab=4096, tied=False, positions=4096,
    ),
    "medium": shape(  # 0.91 G, 0.21 G active
        hidden=1024, layers=16, heads=16, kv_heads=4, experts=32, top_k=4,
        moe_intermediate=512, vocab=32_768, tied=False, positions=4096,
    ),
    "small-deepseek": deepseek(SMALL, experts=16, width=192, rank=128),
    "small-gpt-oss": gpt_oss(SMALL, experts=16, width=192, kv_heads=2),
    "medium-deepseek": deepseek(MEDIUM, experts=32, width=512, rank=256),
    "medium-gpt-oss": gpt_oss(MEDIUM, experts=32, width=512, kv_heads=4),
}  # fmt: skip


def pick_shape(name: str) -> ModelConfig:
    """The shape of that name."""
    if name not in SHAPES:
        raise TinymoeError(f"--shape must be one of {', '.join(SHAPES)}; got {name!r}")
    return SHAPES[name]


def parameters(config: ModelConfig) -> tuple[int, int]:
    """(total, active) parameters. Active: those that one token meets, the embedding matrix whole.

    A layer's router is active whole; of its E experts, K are. What a checkpoint holds once for
    all heads (a norm of queries) counts once. A bias of the head, which no config names, is left
    out.
    """
    count = _Count(config)
    fresh_params(config, count)
    return count.total, count.active


class _Count:
    """A draw that fills nothing: it adds up sizes, and hands out arrays that take no memory."""

    def __init__(self, config: ModelConfig) -> None:
        self.total = self.active = 0
        self._router = config.router

    def matrix(self, *shape: int) -> Array:
        """Counted whole."""
        self.total += math.prod(shape)
        self.active += math.prod(shape)
        return self.ones(*shape)

    mixed_out = router = selection_bias = bias = sinks = norm = matrix

    def experts(self, *shape: int) -> Array:
        """Counted for those that one token meets: K of E."""
        self.total += math.prod(shape)
        self.active += self._router.top_k * math.prod(shape[1:])
        return self.ones(*shape)

    expert_bias = experts

    def ones(self, *shape: int) -> Array:
        """No parameters."""
        return np.broadcast_to(np.float32(1), shape)


def kv_values(config: ModelConfig) -> int:
    """Numbers that the cache keeps for one position while all layers see it, all together."""
    total = 0
    for layer in range(config.num_layers):
        keys, values = config.cached(layer)
        total += keys[0] * keys[1] + (0 if values is None else values[0] * values[1])
    return total


def state_values(config: ModelConfig) -> int:
    """Numbers that layers with a state keep for a whole sequence, all together."""
    shapes = [config.state(layer) for layer in range(config.num_layers)]
    return sum(math.prod(shape) for pair in shapes if pair is not None for shape in pair)

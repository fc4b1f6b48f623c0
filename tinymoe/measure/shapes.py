"""The shapes of the random models that can be measured, and what a shape costs: counts, bytes.

"small" and "medium" are the two random models that the speed table compares engines on;
"shipped" is the shape of the model in `weights/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from tinymoe.cards import NO_MULTIPLIERS, PLAIN_SWIGLU, full_attention
from tinymoe.core import AttentionCard, ModelConfig, RopeCard, TinymoeError
from tinymoe.families.common import softmax_router


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
}  # fmt: skip


def pick_shape(name: str) -> ModelConfig:
    """The shape of that name."""
    if name not in SHAPES:
        raise TinymoeError(f"--shape must be one of {', '.join(SHAPES)}; got {name!r}")
    return SHAPES[name]


def parameters(config: ModelConfig) -> tuple[int, int]:
    """(total, active) parameters. Active: those that one token meets, the embedding matrix whole.

    A layer's router is active whole; of its E experts, K are.
    """
    H, V = config.hidden_size, config.vocab_size
    shared = H + V * H * (1 if config.tied_head else 2)
    per_expert = 3 * H * config.moe_intermediate
    total = active = shared
    for kind in config.layers:
        layer = attention_parameters(config) + H  # the second norm
        if kind == "dense":
            ffn = (3 * H * config.dense_intermediate,) * 2
        else:
            router = router_parameters(config)
            ffn = (
                router + config.router.experts * per_expert,
                router + config.router.top_k * per_expert,
            )
        total, active = total + layer + ffn[0], active + layer + ffn[1]
    return total, active


def attention_parameters(config: ModelConfig) -> int:
    """Of one layer, its norms included."""
    H, D = config.hidden_size, config.head_dim
    first = config.attention[0]
    normed = isinstance(first, AttentionCard) and first.qk_norm != "none"
    norms = H + (2 * D if normed else 0)
    return norms + 2 * H * D * (config.heads + config.kv_heads)


def router_parameters(config: ModelConfig) -> int:
    """Of one layer: the matrix, and the selection bias if there is one."""
    card = config.router
    return card.experts * (config.hidden_size + card.selection_bias)


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

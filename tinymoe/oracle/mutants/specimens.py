"""Small models, stored tensors and sampler rows on which the mutants show.

Each model has the features of a kind of family, in a few thousand random numbers: groups and a
latent key, sinks and windows, chunks and layers without positions, ties between experts. Their
weights are the same numbers in every numerics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tinymoe.cards import (
    NO_MULTIPLIERS,
    PLAIN_SWIGLU,
    ExpertCard,
    LatentCard,
    LongRopeScaling,
    Multipliers,
    TemperatureCard,
    YarnScaling,
    full_attention,
)
from tinymoe.core import AttentionCard, ModelConfig, QuantTensor, RopeCard, RouterCard, Sampling
from tinymoe.formats import mxfp4, nvfp4
from tinymoe.oracle.mutants.mutant import Row, Stored

IDS = (3, 17, 3, 8, 29, 11, 5, 36, 8, 21, 2, 30)  # of every specimen, whose V is 40

_ROUTER: dict[str, Any] = {
    "experts": 8,
    "top_k": 3,
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
    "logits_dtype": "float32",
    "bias_dtype": "float32",
    "tie_rule": "lowest_index",
}
_ROPE = RopeCard(theta=5e5, rotary_dim=8, pairing="half", scaling=None)
_PLAIN = full_attention(8, _ROPE)


def _config(router: Mapping[str, Any], *attention: AttentionCard, **changes: Any) -> ModelConfig:
    """H 24, four query heads of 8 on two key heads, V 40; one layer for each attention card."""
    fields: dict[str, Any] = {
        "family": "specimen",
        "vocab_size": 40,
        "hidden_size": 24,
        "layers": ("moe",) * len(attention),
        "attention": attention,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "norm": "rms",
        "rms_norm_eps": 1e-6,
        "norm_rounds_before_weight": True,
        "dense_intermediate": 20,
        "moe_intermediate": 12,
        "experts": PLAIN_SWIGLU,
        "router": RouterCard(**{**_ROUTER, **router}),
        "multipliers": NO_MULTIPLIERS,
        "residual": None,
        "tied_head": False,
        "max_positions": 64,
    }
    return ModelConfig(**{**fields, **changes})


def _shared(kind: str) -> ExpertCard:
    return replace(PLAIN_SWIGLU, shared=kind, shared_intermediate=16)  # type: ignore[arg-type]


def _ties() -> ModelConfig:
    """Qwen3: normed queries and keys; three pairs of experts tie, one nearly."""
    card = replace(_PLAIN, qk_norm="per_head")
    return _config({}, card, card, layers=("dense", "moe"))


def _groups() -> ModelConfig:
    """DeepSeek-V3: latent attention, two of four groups, a negative bias, scale 2.5."""
    latent = LatentCard(
        query_rank=8, rank=12, nope_dim=6, rope_dim=4, value_dim=5, norm_eps=1e-6, form="expanded"
    )
    scaling = YarnScaling(
        factor=8.0,
        original_positions=4096,
        beta_fast=32.0,
        beta_slow=1.0,
        truncate=True,
        attention_factor=1.0,
    )
    rope = RopeCard(theta=1e4, rotary_dim=4, pairing="interleaved", scaling=scaling)
    card = replace(full_attention(10, rope), latent=latent)
    router = {
        "score": "sigmoid",
        "selection_bias": True,
        "groups": 4,
        "groups_kept": 2,
        "group_score": "top2_sum",
        "dropped_group": "-inf",
        "renorm_epsilon": 1e-20,
        "scale": 2.5,
    }
    return _config(
        router,
        card,
        card,
        layers=("dense", "moe"),
        kv_heads=4,
        head_dim=10,
        experts=_shared("added"),
    )


def _sinks() -> ModelConfig:
    """gpt-oss: sinks, every other layer a window, biases, clamped SwiGLU, softmax of the chosen."""
    scaling = YarnScaling(
        factor=8.0,
        original_positions=4096,
        beta_fast=32.0,
        beta_slow=1.0,
        truncate=False,
        attention_factor=1.2,
    )
    rope = RopeCard(theta=1.5e5, rotary_dim=8, pairing="half", scaling=scaling)
    card = replace(full_attention(8, rope), sinks=True, qkv_bias=True, out_bias=True)
    experts = ExpertCard(
        activation="swiglu_clamped",
        clamp_limit=1.5,
        clamp_alpha=1.702,
        biases=True,
        shared="none",
        shared_intermediate=0,
    )
    router = {"score": "identity", "weight_from": "softmax_of_chosen", "renormalise": False}
    windowed = replace(card, window=4)
    return _config(router, windowed, card, windowed, experts=experts)


def _chunks() -> ModelConfig:
    """Llama-4: one expert per token, its input weighted; chunks; a layer without positions."""
    rope = replace(_ROPE, pairing="interleaved")
    chunked = replace(full_attention(8, rope), chunk=4, qk_norm="unit", qk_norm_after_rope=True)
    everywhere = replace(_PLAIN, rope=None, temperature=TemperatureCard(floor_scale=3.0, scale=0.5))
    router = {
        "top_k": 1,
        "score": "identity",
        "weight_from": "sigmoid_of_chosen",
        "renormalise": False,
        "weight_on": "input",
    }
    return _config(router, chunked, everywhere, experts=_shared("added"))


def _input_pairs() -> ModelConfig:
    """Two experts per token, their inputs weighted, so that a weight on both sides shows."""
    router = {"top_k": 2, "score": "sigmoid", "weight_on": "input", "scale": 1.5}
    return _config(router, _PLAIN)


def _mixer() -> ModelConfig:
    """Phi-3.5-MoE: LayerNorm, sparsemixer, longrope, a window, biases."""
    scaling = LongRopeScaling(factors=(1.0, 1.1, 2.0, 4.0), attention_factor=1.19)
    card = replace(
        full_attention(8, replace(_ROPE, scaling=scaling)), window=5, qkv_bias=True, out_bias=True
    )
    router = {
        "top_k": 2,
        "score": "identity",
        "weight_from": "sparsemixer",
        "renormalise": False,
    }
    return _config(router, card, card, norm="layer")


def _clipped() -> ModelConfig:
    """OLMoE with Granite's constants: heads normed as one, clipped; no renormalisation."""
    card = replace(_PLAIN, qk_norm="all_heads", clip=1.0)
    constants = Multipliers(embedding=3.0, residual=0.22, logits_divisor=6.0)
    return _config({"top_k": 2, "renormalise": False}, card, card, multipliers=constants)


def _band() -> ModelConfig:
    """GLM-4.5: partial rope, norm after rope, biases close together at 7, a gated shared expert."""
    rope = replace(_ROPE, rotary_dim=4)
    card = replace(_PLAIN, rope=rope, qk_norm="per_head", qk_norm_after_rope=True, qkv_bias=True)
    router = {"score": "sigmoid", "selection_bias": True, "scale": 1.5}
    return _config(router, card, experts=_shared("gated"))


def _mixed_bias() -> ModelConfig:
    """Ernie: softmax with a bias of both signs, weights taken as they are."""
    rope = replace(_ROPE, theta=1e4, pairing="interleaved")
    router = {"selection_bias": True, "renormalise": False, "experts": 9}
    return _config(router, replace(_PLAIN, rope=rope))


CONFIGS: Mapping[str, ModelConfig] = {
    "ties": _ties(),
    "groups": _groups(),
    "sinks": _sinks(),
    "chunks": _chunks(),
    "input-pairs": _input_pairs(),
    "mixer": _mixer(),
    "clipped": _clipped(),
    "band": _band(),
    "mixed-bias": _mixed_bias(),
}


# ------------------------------------------------------------------------ tensors and sampler


def stored_tensors() -> dict[str, Stored]:
    """Gate and up, each in one format, with unlike scales everywhere."""
    rng = np.random.default_rng(0)

    def matrix(size: float) -> Any:
        rows = np.exp2(rng.integers(-3, 4, (160, 8))).repeat(16, axis=1)  # a scale for each block
        return (rng.normal(size=(160, 128)) * rows * size).astype(np.float32)

    pair = matrix(0.02), matrix(0.1)

    def blocks() -> QuantTensor:
        return QuantTensor(
            format="fp8",
            convention="div32",
            codes=(rng.integers(0, 0x7F, (32, 64)) | rng.integers(0, 2, (32, 64)) << 7).astype(
                "u1"
            ),
            scales=rng.uniform(1e-4, 1e-2, (8, 8)).astype(np.float32),
            block=(4, 8),
            tensor_scale=None,
            tensor_scale_is="none",
        )

    def in_nvfp4(convention: str) -> Stored:
        return tuple(
            nvfp4.encode(x, convention=convention, source="float32", zero_tensor="refuse")
            for x in pair
        )

    return {
        "nvfp4-multiplier": in_nvfp4("modelopt"),
        "nvfp4-divisor": in_nvfp4("ct"),
        "mxfp4": tuple(mxfp4.encode(x, convention="ocp_floor") for x in pair),
        "fp8-blocks": (blocks(), blocks()),
    }


def sampler_rows() -> dict[str, Row]:
    """Rows in which every step of the sampler has something to do."""
    rng = np.random.default_rng(1)
    logits = np.sort(rng.normal(size=40))[::-1] * 2  # so that ids rank the tokens
    penalties = Sampling(
        temperature=0.7, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.3
    )
    return {
        "masks": Row(logits, Sampling(temperature=1.6, top_k=5, top_p=0.9, min_p=0.05)),
        "min-p-first": Row(logits, Sampling(temperature=1.5, top_p=0.7, min_p=0.25)),
        "min-p-last": Row(
            logits, Sampling(temperature=1.5, top_p=0.6, min_p=0.3, order="transformers")
        ),
        "penalties": Row(logits, penalties, (0, 2, 30), (1, 3, 3, 38, 38, 8)),
    }

"""Qwen3-Next and MiniMax-01: what their configs say, and that every number of it counts.

As in `test_families.py`, for the two families with layers that carry a state.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.definition.test_families import (
    ROOT,
    Change,
    attention,
    config_of,
    logits_apart,
    rope,
)
from tests.definition.test_parity import Runner
from tinymoe.cards import AttentionCard, GatedDeltaCard, LightningCard, NormedResidual
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS, ModelConfig, TinymoeError
from tinymoe.families import load_params, read_config
from tinymoe.model.rope import inverse_frequencies
from tinymoe.oracle.trace import trace

pytestmark = pytest.mark.definition

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "layer kinds": ("qwen3_next", {"layer_types": ["sliding_attention"] * 4}, "layer_types"),
    "kinds and interval": (
        "qwen3_next",
        {"layer_types": ["full_attention"] * 4},
        "as full_attention_interval",
    ),
    "value heads": ("qwen3_next", {"linear_num_value_heads": 3}, "multiple of the 2 key heads"),
    "biases of Next": ("qwen3_next", {"attention_bias": True}, "attention_bias"),
    "windows of Next": ("qwen3_next", {"use_sliding_window": True}, "use_sliding_window"),
    "half a pair": ("qwen3_next", {"partial_rotary_factor": 0.2}, "even number"),
    "no kinds": ("minimax", {"layer_types": None}, "attn_type_list"),
    "two lists of kinds": ("minimax", {"attn_type_list": [0, 1, 0, 1]}, "as layer_types"),
    "factors": ("minimax", {"layernorm_mlp_alpha": 3.0}, "as mlp_alpha_factor, 0.875"),
    "residual of the input": ("minimax", {"postnorm": False}, "postnorm"),
    "a shared expert": ("minimax", {"shared_intermediate_size": 8}, "shared_intermediate_size"),
    "a window of MiniMax": ("minimax", {"sliding_window": 5}, "sliding_window"),
    "heads of Text-01": (
        "minimax",
        {"model_type": "minimax_text_01", "postnorm": True, "num_attention_heads": 6},
        "power of two",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_by_name(name: str) -> None:
    case, changes, says = REFUSED[name]
    config = {k: v for k, v in (config_of(case) | changes).items() if v is not None}
    with pytest.raises(TinymoeError, match=says):
        read_config(config)


def test_minimax_text_01_says_the_same_in_its_own_words() -> None:
    # the names of the release; transformers' class has others, and leaves rotary_dim out
    fields = config_of("minimax")
    other = {k: v for k, v in fields.items() if "_factor" not in k and k != "layer_types"}
    for new, old in (("full_attn", "full_attention"), ("linear_attn", "linear_attention")):
        for letter in ("alpha", "beta"):
            other[f"layernorm_{old}_{letter}"] = fields[f"{new}_{letter}_factor"]
    other |= {
        **{"model_type": "minimax_text_01", "attn_type_list": [0, 0, 1, 0], "postnorm": True},
        **{"layernorm_mlp_alpha": 0.875, "layernorm_mlp_beta": 1.125},
        **{"shared_intermediate_size": 0, "shared_moe_mode": "sigmoid", "rotary_dim": 4},
    }
    config, released = read_config(fields), read_config(other)
    assert released.residual == config.residual
    assert released.residual == NormedResidual(
        full_attention=(1.5, 0.75), linear_attention=(1.25, 0.5), ffn=(0.875, 1.125)
    )
    kinds = [type(card).__name__ for card in released.attention]
    assert kinds == ["LightningCard"] * 2 + ["AttentionCard", "LightningCard"]
    softmax, first, last = released.attention[2], released.attention[0], released.attention[3]
    assert isinstance(softmax, AttentionCard) and softmax.rope is not None  # noqa: PT018
    assert softmax.rope.rotary_dim == 4  # half of a head
    assert isinstance(first, LightningCard) and isinstance(last, LightningCard)  # noqa: PT018
    quarter = [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]
    assert first.decays == pytest.approx([d * (1 + 1e-5) for d in quarter], rel=1e-15)
    assert last.decays == pytest.approx([d * 1e-5 for d in quarter], rel=1e-9)  # nearly no decay


def test_qwen3_next_as_released() -> None:
    # Qwen/Qwen3-Next-80B-A3B-Instruct: every field of its config.json that says what is computed
    released = {
        **{"num_hidden_layers": 48, "hidden_size": 2048, "head_dim": 256, "vocab_size": 151936},
        **{"num_attention_heads": 16, "num_key_value_heads": 2, "full_attention_interval": 4},
        **{"linear_num_key_heads": 16, "linear_num_value_heads": 32, "mlp_only_layers": []},
        **{"linear_key_head_dim": 128, "linear_value_head_dim": 128, "num_experts": 512},
        **{"num_experts_per_tok": 10, "use_sliding_window": False, "rope_scaling": None},
    }
    config = read_config(config_of("qwen3_next") | released)
    full, linear = config.attention[3], config.attention[0]
    assert config.attention == ((linear,) * 3 + (full,)) * 12
    assert isinstance(full, AttentionCard) and full.rope is not None  # noqa: PT018
    # vllm#30384: a quarter of the head turns, once: 64 of 256 dimensions, 32 frequencies
    assert full.rope.rotary_dim == 64
    assert len(inverse_frequencies(full.rope)) == 32
    assert isinstance(linear, GatedDeltaCard)
    assert linear.channels == 2 * 2048 + 4096
    assert linear.state == ((32, 128, 128), (3, 8192))
    left_out = config_of("qwen3_next") | released
    for name in ("partial_rotary_factor", "full_attention_interval", "layer_types"):
        left_out.pop(name, None)
    assert read_config(left_out) == config  # what its class fills in


# ------------------------------------------------------------------------------- mutants


def residual(**changes: Any) -> Change:
    def change(config: ModelConfig) -> ModelConfig:
        assert config.residual is not None
        return replace(config, residual=replace(config.residual, **changes))

    return change


MUTANTS: dict[str, tuple[str, Change]] = {
    "rope of the whole head": ("qwen3_next", rope(rotary_dim=16)),
    "rope fraction twice": ("qwen3_next", rope(rotary_dim=2)),  # vllm#30384
    "output gate lost": ("qwen3_next", attention(out_gate=False)),
    "unit length": ("qwen3_next", attention(unit_eps=1.0)),
    "decays reversed": ("minimax", attention(decays=lambda d: d[::-1])),
    "decay of another layer": ("minimax", attention(decays=lambda d: tuple(x / 2 for x in d))),
    "lightning eps": ("minimax", attention(norm_eps=1.0)),
    "residual of the input": ("minimax", lambda c: replace(c, residual=None)),
    "alpha of softmax layers": ("minimax", residual(full_attention=(1.25, 0.75))),
    "beta of linear layers": ("minimax", residual(linear_attention=(1.25, 0.75))),
    "beta of experts": ("minimax", residual(ffn=(0.875, 1.0))),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_card_field_is_read(name: str) -> None:
    assert logits_apart(*MUTANTS[name]) > 1e-2  # 100 times the tolerance's floor


@pytest.mark.parametrize("case", ["qwen3_next", "minimax"])
def test_a_sequence_begins_from_zeros(case: str) -> None:
    # a slot is handed on as its last owner left it; no key tells old from new, as one would
    ids = [3, 1, 4, 1, 5]
    fresh, used = Runner(case, "fp32", 8), Runner(case, "fp32", 8)
    for layer in range(used.config.num_layers):
        for array in used.cache.layer(layer):
            array[...] = np.nan
    np.testing.assert_array_equal(used(ids)["logits"], fresh(ids)["logits"])
    np.testing.assert_array_equal(used([9])["logits"], fresh([9])["logits"])


@pytest.mark.parametrize("case", ["qwen3_next", "minimax"])
def test_what_these_layers_add_to_a_trace(case: str) -> None:
    # the names of the trace schema, beside q, k, v (after convolution or silu)
    config, numerics = read_config(config_of(case)), NUMERICS["fp32"]
    params = load_params(Checkpoint.open(ROOT / case), config, numerics)
    taps = trace(params, config, np.arange(7), numerics)
    first = config.attention[0]
    if isinstance(first, GatedDeltaCard):
        assert taps["layers.0.attn.k"].shape == (7, first.key_heads, first.key_dim)
        assert taps["layers.0.attn.v"].shape == (7, first.value_heads, first.value_dim)
        beta, decay = taps["layers.0.attn.beta"], taps["layers.0.attn.log_decay"]
        assert beta.shape == decay.shape == (7, first.value_heads)
        assert ((beta > 0) & (beta < 1)).all()
        assert (decay < 0).all()
    for layer in (0, 3):
        mix, gate = taps[f"layers.{layer}.attn.mix"], taps[f"layers.{layer}.attn.gate"]
        assert mix.shape == gate.shape

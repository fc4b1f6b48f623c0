"""Every family's config: what is not understood is refused by name, and every number counts.

A field that is overlooked, or a card field that nothing reads, changes the model in silence
(ik_llama.cpp#1174). So each value below is changed in a config or a card, and must be refused or
must move the logits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tinymoe.cards import ModelConfig, TemperatureCard
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.families import FAMILIES, expected_tensors, load_params, read_config
from tinymoe.model.rope import inverse_frequencies
from tinymoe.oracle.trace import trace

pytestmark = pytest.mark.definition

ROOT = Path(__file__).parents[1] / "vectors" / "parity"
CASES = sorted(folder.name for folder in ROOT.iterdir() if folder.is_dir())


def config_of(case: str, style: str = "config.json") -> dict[str, Any]:
    config: dict[str, Any] = json.loads((ROOT / case / style).read_text(encoding="utf-8"))
    return config


def test_every_family_has_a_case() -> None:
    # kimi_k2 is deepseek_v3 under another name, minimax_text_01 minimax, llama4 holds a llama4_text
    covered = {config_of(case)["model_type"] for case in CASES} | {
        "kimi_k2",
        "llama4",
        "minimax_text_01",
    }
    assert covered == set(FAMILIES)


@pytest.mark.parametrize("case", [c for c in CASES if (ROOT / c / "config.v5.json").is_file()])
def test_both_styles_of_config_say_the_same(case: str) -> None:
    assert read_config(config_of(case)) == read_config(config_of(case, "config.v5.json"))


@pytest.mark.parametrize("case", CASES)
def test_the_checkpoint_holds_what_is_expected_and_no_more(case: str) -> None:
    names = [name for name, _ in expected_tensors(read_config(config_of(case)))]
    assert len(set(names)) == len(names)  # llama.cpp#23629: each tensor is used, once
    if case == "gpt_oss-mxfp4":  # each stack of experts is two tensors
        stacks = {n for n in names if n.endswith(("experts.gate_up_proj", "experts.down_proj"))}
        assert len(stacks) == 4
        names = [n for n in names if n not in stacks]
        names += [stack + part for stack in stacks for part in ("_blocks", "_scales")]
    assert set(names) == set(Checkpoint.open(ROOT / case).names())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("some_new_switch", 1),
        ("hidden_act", "gelu"),
        ("quantization_config", {"quant_method": "fp8"}),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 10**9),
        ("rms_norm_eps", "1e-6"),
        ("hidden_size", None),
        ("tie_word_embeddings", None),
        ("rope_scaling", {"type": "a new one", "factor": 2.0}),
        ("rope_scaling", {"type": "yarn", "factor": 2.0, "a_new_number": 3}),
    ],
)
def test_bad_fields_are_refused(case: str, name: str, value: Any) -> None:
    with pytest.raises(TinymoeError):
        read_config(config_of(case) | {name: value})


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "too many experts": ("mixtral", {"num_experts_per_tok": 7}, "at most the number of experts"),
    "window as text": ("mixtral", {"sliding_window": "5"}, "sliding_window"),
    "clip as text": ("olmoe", {"clip_qkv": "8"}, "clip_qkv"),
    "window, layers unknown": ("qwen2_moe", {"layer_types": None}, "use_sliding_window"),
    "layer type": ("qwen2_moe", {"layer_types": ["linear_attention"] * 3}, "layer_types"),
    "groups": ("dots1", {"n_group": 3}, "divisor of the 8 experts"),
    "groups kept": ("dots1", {"topk_group": 5}, "at most n_group"),
    "groups too small": ("dots1", {"topk_group": 1, "num_experts_per_tok": 3}, "enough groups"),
    "scoring": ("glm4_moe", {"scoring_func": "softmax"}, "scoring_func"),
    "top-k method": ("glm4_moe", {"topk_method": "greedy"}, "topk_method"),
    "dense layers": ("glm4_moe", {"first_k_dense_replace": -1}, "first_k_dense_replace"),
    "partial rope": ("glm4_moe", {"partial_rotary_factor": 0.3}, "even number"),
    "partial rope elsewhere": ("mixtral", {"partial_rotary_factor": 0.5}, "whole heads turn"),
    "multiplier missing": ("granitemoe", {"residual_multiplier": None}, "residual_multiplier"),
    "unlike layers": ("hunyuan_v1_moe", {"moe_topk": [2, 3]}, "moe_topk"),
    "another width": ("hunyuan_v1_moe", {"moe_intermediate_size": 8}, "moe_intermediate_size"),
    "dynamic, no alpha": (
        "hunyuan_v1_moe",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        "alpha",
    ),
    "shared layers": ("hunyuan_v1_moe", {"use_cla": True}, "use_cla"),
    "bias": ("ernie4_5_moe", {"use_bias": True}, "use_bias"),
    "last layer": ("ernie4_5_moe", {"moe_layer_end_index": 3}, "moe_layer_end_index"),
    "no limit": ("gpt_oss", {"swiglu_limit": None}, "swiglu_limit"),
    "renorm in V2": ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob"),
    "method in V2": ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method"),
    "halves in V3": ("deepseek_v3", {"rope_interleave": False}, "rope_interleave"),
    "linear attention": ("minimax_m2", {"attn_type_list": [0, 1]}, "attn_type_list"),
    "norm": ("minimax_m2", {"qk_norm_type": "per_head"}, "qk_norm_type"),
    "rope layers": ("llama4_text", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
    "layer types": ("llama4_text", {"layer_types": ["full_attention"] * 3}, "layer_types"),
    "jitter": ("phimoe", {"router_jitter_noise": 0.02}, "router_jitter_noise"),
    "three experts": ("phimoe", {"num_experts_per_tok": 3}, "num_experts_per_tok"),
    "longrope factors": (
        "phimoe",
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "short_mscale": 1.0}},
        "short_factor",
    ),
    "no text": ("llama4_text", {"model_type": "llama4"}, "text_config"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_by_name(name: str) -> None:
    case, changes, says = REFUSED[name]
    config = {k: v for k, v in (config_of(case) | changes).items() if v is not None}
    with pytest.raises(TinymoeError, match=says):
        read_config(config)


def test_a_text_model_inside_another() -> None:
    text = config_of("llama4_text")
    whole = {"model_type": "llama4", "text_config": text, "vision_config": {"x": 1}}
    inner = read_config(whole)
    assert replace(inner, family="llama4_text") == read_config(text)
    names = [name for name, _ in expected_tensors(inner)]
    assert all(name.startswith("language_model.") for name in names)
    with pytest.raises(TinymoeError, match="quantization_config"):
        read_config(whole | {"quantization_config": {"quant_method": "fp8"}})


def test_llama4_as_released_leaves_out_what_its_class_fills_in() -> None:
    left_out = {"tie_word_embeddings", "attn_temperature_tuning", "floor_scale", "attn_scale"}
    text = {k: v for k, v in config_of("llama4_text").items() if k not in left_out}
    config = read_config(text | {"no_rope_layers": [], "_attn_implementation_autoset": True})
    assert config.tied_head is False
    assert [card.rope is None for card in config.attention] == [False] * 3  # every fourth has none
    far = read_config(text).attention[1]
    assert far.temperature == TemperatureCard(floor_scale=8192.0, scale=0.1)


def test_kimi_is_deepseek_with_its_own_numbers() -> None:
    rope = {
        **{"type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
        **{"beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
    }
    changes = {"model_type": "kimi_k2", "n_group": 1, "topk_group": 1, "rope_scaling": rope}
    config = read_config(config_of("deepseek_v3") | changes)
    card = config.attention[0]
    assert (config.family, config.router.groups, config.router.score) == ("kimi_k2", 1, "sigmoid")
    assert card.scale == pytest.approx(24**-0.5 * (0.1 * np.log(32) + 1) ** 2, rel=1e-15)
    assert card.rope is not None
    assert np.isfinite(inverse_frequencies(card.rope)).all()  # beta_fast is beta_slow: no 0 / 0


def test_longrope_takes_the_long_factors_for_what_is_longer() -> None:
    # transformers 5.23 goes on with the short ones; a cache that holds both kinds is neither
    config = config_of("phimoe")
    rope = config["rope_scaling"]
    d, theta = 2 * len(rope["long_factor"]), config["rope_theta"]
    for positions, size in ((None, "short"), (32, "short"), (33, "long"), (128, "long")):
        read = read_config(config, positions)
        assert read.max_positions == {"short": 32, "long": 128}[size]
        card = read.attention[0].rope
        assert card is not None
        plain = theta ** (-np.arange(0, d, 2) / d)
        wanted = plain / np.array(rope[f"{size}_factor"])
        # a power and two divisions, in float64
        np.testing.assert_allclose(inverse_frequencies(card), wanted, rtol=2.0**-50, atol=0)
        assert card.scaling.attention_factor == rope[f"{size}_mscale"]  # type: ignore[union-attr]
    params = load_params(Checkpoint.open(ROOT / "phimoe"), read, NUMERICS["fp32"])
    tokens = list(range(40))
    long = trace(params, read, tokens, NUMERICS["fp32"])
    short = trace(params, read_config(config), tokens[:32], NUMERICS["fp32"])
    assert np.isfinite(long["logits"]).all()
    assert not np.array_equal(long["layers.0.attn.q"][1], short["layers.0.attn.q"][1])  # from 1 on
    with pytest.raises(TinymoeError, match="40 tokens, the model has 32 positions"):
        trace(params, read_config(config), tokens, NUMERICS["fp32"])
    with pytest.raises(TinymoeError, match="long_factor"):
        read_config(config | {"rope_scaling": rope | {"long_factor": [1.0]}}, 33)


def test_longrope_ends_where_the_long_factors_would_begin() -> None:
    # from there on the keys in the cache would have been turned by other angles
    config = read_config(config_of("phimoe"))
    assert config_of("phimoe")["max_position_embeddings"] == 128
    assert config.max_positions == 32


# ------------------------------------------------------------------------------- mutants

Change = Callable[[ModelConfig], ModelConfig]


def attention(**changes: Any) -> Change:
    """Fields of every layer's card that has them set; a function gets the old value."""

    def change(config: ModelConfig) -> ModelConfig:
        cards = []
        for card in config.attention:
            for name, value in changes.items():
                old = getattr(card, name, None)  # a layer with a state has other fields
                if old is not None:
                    new = value(old) if callable(value) else value
                    card = replace(card, **{name: new})
            cards.append(card)
        return replace(config, attention=tuple(cards))

    return change


def rope(**changes: Any) -> Change:
    return attention(rope=lambda card: replace(card, **changes))


def router(**changes: Any) -> Change:
    return lambda config: replace(config, router=replace(config.router, **changes))


def multipliers(**changes: Any) -> Change:
    return lambda config: replace(config, multipliers=replace(config.multipliers, **changes))


def later(old: int) -> int:
    return old + 1


MUTANTS: dict[str, tuple[str, Change]] = {
    "window by one": ("mixtral_window", attention(window=later)),
    "window lost": ("mixtral_window", attention(window=None)),
    "not renormalised": ("mixtral", router(renormalise=False)),
    "norm per head": ("olmoe", attention(qk_norm="per_head")),
    "clip": ("olmoe", lambda c: replace(c, attention=(replace(c.attention[0], clip=0.5),) * 2)),
    "window in some layers": ("qwen2_moe", attention(window=later)),
    "whole heads turn": ("glm4_moe", rope(rotary_dim=12)),
    "scale lost": ("glm4_moe", router(scale=1.0)),
    "softmax for sigmoid": ("glm4_moe", router(score="softmax")),
    "no groups": ("dots1", router(groups_kept=4)),
    "one more group": ("deepseek_v2", router(groups_kept=3)),
    "sliding layers": ("dots1", attention(window=later)),
    "embedding multiplier": ("granitemoe", multipliers(embedding=1.0)),
    "residual multiplier": ("granitemoe", multipliers(residual=1.0)),
    "logits divisor": ("granitemoe", multipliers(logits_divisor=1.0)),
    "attention multiplier": ("granitemoe", attention(scale=8**-0.5)),
    "linear scaling lost": ("granitemoe", rope(scaling=None)),
    "llama3 scaling lost": ("granitemoeshared", rope(scaling=None)),
    "norm before rope": ("hunyuan_v1_moe", attention(qk_norm_after_rope=False)),
    "alpha lost": ("hunyuan_v1_moe", rope(theta=1e4)),
    "halves for neighbours": ("ernie4_5_moe", rope(pairing="half")),
    "yarn lost": ("deepseek_v3", rope(scaling=None)),
    "mscale lost": ("deepseek_v3", attention(scale=24**-0.5)),
    "latent halves": ("deepseek_v2_greedy", rope(pairing="half")),
    "yarn truncated": (
        "gpt_oss",
        attention(rope=lambda c: replace(c, scaling=replace(c.scaling, truncate=True))),
    ),
    "window by one, gpt-oss": ("gpt_oss", attention(window=later)),
    "alpha": (
        "gpt_oss",
        lambda c: replace(c, experts=replace(c.experts, clamp_alpha=1.0)),
    ),
    "clamp": ("gpt_oss", lambda c: replace(c, experts=replace(c.experts, clamp_limit=0.5))),
    "part of a head": ("minimax_m2", rope(rotary_dim=12)),
    "rivals not weighed": ("phimoe", router(weight_from="softmax_of_chosen")),
    "longrope lost": ("phimoe", rope(scaling=None)),
    "chunk by one": ("llama4_text", attention(chunk=later)),
    "chunk lost": ("llama4_text", attention(chunk=None)),
    "temperature lost": ("llama4_text", attention(temperature=None)),
    "weight on the output": ("llama4_text", router(weight_on="output")),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_card_field_is_read(name: str) -> None:
    # the parity cases must see each of these: the smallest effect is 100 times the tolerance's
    # floor, so a model with this mistake could not have passed them
    assert logits_apart(*MUTANTS[name]) > 1e-2


def logits_apart(case: str, change: Change) -> float:
    """How far the reference's logits are from those of a model with a changed card."""
    right, numerics = read_config(config_of(case)), NUMERICS["fp32"]
    wrong = change(right)
    assert wrong != right
    params = load_params(Checkpoint.open(ROOT / case), right, numerics)
    reference = load_file(ROOT / case / "reference.safetensors")
    n = max(n for n in (17, 96) if f"p{n}.input_ids" in reference)
    ids = reference[f"p{n}.input_ids"]
    got = trace(params, wrong, ids, numerics, patterns=["logits"])["logits"]
    return float(np.abs(got - reference[f"p{n}.logits"]).max())

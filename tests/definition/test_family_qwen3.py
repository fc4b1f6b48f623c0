"""config.json of Qwen3-MoE to a `ModelConfig`, and its tensors to `Params`.

A field that is overlooked changes the model in silence (ik_llama.cpp#1174: softmax ran for
sigmoid because an entry was missing). So every field is used, harmless, or an error.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tinymoe.cards import full_attention
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS, RopeCard, TinymoeError
from tinymoe.families import expected_tensors, load_params, read_config
from tinymoe.model.params import DenseParams, MoeParams

pytestmark = pytest.mark.definition

# Qwen/Qwen3-30B-A3B's config.json
HUB = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
# fields that other exports carry with a value that asks for nothing
NEUTRAL = {"qkv_bias": False, "shared_expert_intermediate_size": 0, "use_qk_norm": True}


def without(*names: str, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in HUB.items() if name not in names} | changes


def test_every_field_lands_where_it_belongs() -> None:
    config = read_config(HUB)
    assert (config.family, config.vocab_size, config.hidden_size) == ("qwen3_moe", 151936, 2048)
    assert (config.heads, config.kv_heads, config.head_dim) == (32, 4, 128)
    assert config.attention[0].scale == 128**-0.5  # of head_dim, not of hidden / heads = 64
    assert config.layers == ("moe",) * 48
    assert (config.moe_intermediate, config.dense_intermediate) == (768, 6144)
    rope = RopeCard(theta=1e6, rotary_dim=128, pairing="half", scaling=None)
    assert config.attention == (replace(full_attention(128, rope), qk_norm="per_head"),) * 48
    assert (config.rms_norm_eps, config.max_positions, config.tied_head) == (1e-6, 40960, False)
    card = config.router
    assert (card.experts, card.top_k, card.score, card.renormalise) == (128, 8, "softmax", True)
    assert (card.weight_from, card.scale, card.selection_bias) == ("score", 1.0, False)


def test_both_styles_of_config_say_the_same() -> None:
    newer = without(
        *("rope_theta", "rope_scaling", "torch_dtype", "num_experts"),
        rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"},
        dtype="bfloat16",
        num_local_experts=128,
    )
    assert read_config(newer) == read_config(HUB)
    assert read_config(newer | NEUTRAL) == read_config(HUB)


def test_null_and_missing_values_mean_what_the_family_says() -> None:
    assert read_config(without("rms_norm_eps")).rms_norm_eps == 1e-6
    assert read_config(without(num_key_value_heads=None)).kv_heads == 32
    assert read_config(without(head_dim=None)).head_dim == 2048 // 32
    assert read_config(without("head_dim")).head_dim == 2048 // 32
    assert read_config(without(mlp_only_layers=None)) == read_config(HUB)
    assert read_config(without(rope_scaling={"type": "default"})) == read_config(HUB)
    # a window that is switched off is no window
    assert read_config(without(sliding_window=4096)) == read_config(HUB)
    assert read_config(without(layer_types=["full_attention"] * 48)) == read_config(HUB)


def test_renormalisation_follows_the_config() -> None:
    assert read_config(without(norm_topk_prob=False)).router.renormalise is False


def test_layer_kinds() -> None:
    # (i + 1) % step == 0 has experts: with step 2 the odd layers, not the even ones
    kinds = read_config(
        without(num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[3])
    ).layers
    assert kinds == ("dense", "moe", "dense", "dense", "dense", "moe")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown family": (without(model_type="qwen9"), "'qwen9'.*qwen3_moe"),
    "no family": (without("model_type"), "None.*qwen3_moe"),
    "family not text": (without(model_type=["qwen3_moe"]), "qwen3_moe"),
    "unknown field": (without(residual_multiplier=0.22), "residual_multiplier = 0.22"),
    "bias": (without(attention_bias=True), "'attention_bias' is True.*not support"),
    "qkv bias": (without(qkv_bias=True), "'qkv_bias' is True"),
    "no q/k norm": (without(use_qk_norm=False), "'use_qk_norm' is False"),
    "shared expert": (without(shared_expert_intermediate_size=8), "shared_expert"),
    "window": (without(use_sliding_window=True, sliding_window=4096), "'sliding_window' is 4096"),
    "window by half": (without("use_sliding_window", sliding_window=64), "'sliding_window' is 64"),
    "window by layer": (without(layer_types=["sliding_attention"] * 48), "layer_types"),
    "dynamic rope": (
        without(rope_scaling={"type": "dynamic", "factor": 4.0}),
        "'type' is 'dynamic'",
    ),
    "scaled rope, new style": (
        without("rope_theta", rope_parameters={"rope_theta": 1e6, "rope_type": "ntk"}),
        "'rope_type' is 'ntk'",
    ),
    "partial rope": (
        without(rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
        "partial_rotary_factor",
    ),
    "unknown rope field": (
        without(rope_scaling={"type": "default", "factor": 4.0}),
        "rope_scaling.*factor = 4.0",
    ),
    "rope not an object": (without(rope_scaling="yarn"), "rope_scaling.*an object"),
    "two bases": (without(rope_parameters={"rope_theta": 5e5}), "the same everywhere"),
    "no base": (without("rope_theta"), "rope_theta"),
    "activation": (without(hidden_act="gelu"), "'hidden_act' is 'gelu'"),
    "no activation": (without("hidden_act"), "'hidden_act' is None"),
    "quantised": (without(quantization_config={"quant_method": "fp8"}), "quantization_config"),
    "k above E": (without(num_experts_per_tok=129), "at most the number of experts, 128"),
    "k missing": (without("num_experts_per_tok"), "'num_experts_per_tok' is missing"),
    "renorm missing": (without("norm_topk_prob"), "'norm_topk_prob' is missing"),
    "renorm as number": (without(norm_topk_prob=1), "true or false"),
    "two counts of experts": (without(num_local_experts=64), "num_experts, 128"),
    "no experts": (without("num_experts"), "num_experts"),
    "heads not divisible": (without(num_key_value_heads=5), "divisor of the 32"),
    "kv heads missing": (without("num_key_value_heads"), "is missing"),
    "odd head": (without(head_dim=127), "even"),
    "head unknown": (without(head_dim=None, hidden_size=2050), "head_dim"),
    "layers as text": (without(num_hidden_layers="48"), "num_hidden_layers.*'48'"),
    "no layers": (without(num_hidden_layers=0), "whole number from 1"),
    "billions of layers": (without(num_hidden_layers=10**9), "to 1,024"),
    "billions of experts": (without(num_experts=10**9), "to 4,096"),
    "eps as text": (without(rms_norm_eps="1e-6"), "positive number"),
    "eps zero": (without(rms_norm_eps=0), "positive number"),
    "dense layer outside": (without(mlp_only_layers=[48]), "from 0 to 47"),
    "dense layers no list": (without(mlp_only_layers=3), "a list"),
    "sparse step zero": (without(decoder_sparse_step=0), "decoder_sparse_step"),
    "tie missing": (without("tie_word_embeddings"), "'tie_word_embeddings' is missing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_by_name(name: str) -> None:
    config, says = REFUSED[name]
    with pytest.raises(TinymoeError, match=says):
        read_config(config)


# ------------------------------------------------------------------------------- the tensors

SMALL = without(
    vocab_size=11,
    hidden_size=6,
    head_dim=4,
    num_attention_heads=2,
    num_key_value_heads=1,
    num_hidden_layers=2,
    mlp_only_layers=[1],
    intermediate_size=5,
    moe_intermediate_size=3,
    num_experts=4,
    num_experts_per_tok=2,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with one layer of experts and one dense layer; every value is different."""
    rng = np.random.default_rng(3)
    tensors = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in expected_tensors(read_config(SMALL))
    }
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    return tmp_path


def change(folder: Path, changes: dict[str, np.ndarray | None], **config: Any) -> Checkpoint:
    """The folder's checkpoint with tensors replaced, added or (None) taken away."""
    tensors: dict[str, Any] = load_file(folder / "model.safetensors") | changes
    kept = {name: value for name, value in tensors.items() if value is not None}
    save_file(kept, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SMALL | config))
    return Checkpoint.open(folder)


def load(checkpoint: Checkpoint, preset: str = "fp32") -> Any:
    return load_params(checkpoint, read_config(checkpoint.config), NUMERICS[preset])


@pytest.mark.parametrize("preset", NUMERICS)
def test_tensors_fill_their_roles(folder: Path, preset: str) -> None:
    # gate before up (sglang#32430 had them swapped), each expert in its own place
    params, stored = load(Checkpoint.open(folder), preset), load_file(folder / "model.safetensors")
    moe, dense = (layer.ffn for layer in params.layers)
    assert isinstance(moe, MoeParams)
    assert isinstance(dense, DenseParams)
    assert moe.gate_up.dtype == NUMERICS[preset].dtype
    for expert in range(4):
        name = f"model.layers.0.mlp.experts.{expert}"
        np.testing.assert_array_equal(moe.gate_up[expert, :3], stored[f"{name}.gate_proj.weight"])
        np.testing.assert_array_equal(moe.gate_up[expert, 3:], stored[f"{name}.up_proj.weight"])
        np.testing.assert_array_equal(moe.down[expert], stored[f"{name}.down_proj.weight"])
    np.testing.assert_array_equal(moe.router, stored["model.layers.0.mlp.gate.weight"])
    np.testing.assert_array_equal(dense.gate_up[:5], stored["model.layers.1.mlp.gate_proj.weight"])
    np.testing.assert_array_equal(dense.gate_up[5:], stored["model.layers.1.mlp.up_proj.weight"])
    np.testing.assert_array_equal(dense.down, stored["model.layers.1.mlp.down_proj.weight"])
    for index, layer in enumerate(params.layers):
        name, attention = f"model.layers.{index}", layer.attention
        roles = {
            "input_layernorm": attention.norm,
            "post_attention_layernorm": layer.ffn.norm,
            "self_attn.o_proj": attention.out,
        }
        projections = [stored[f"{name}.self_attn.{letter}_proj.weight"] for letter in "qkv"]
        np.testing.assert_array_equal(attention.qkv, np.concatenate(projections))
        assert attention.qk_norm is not None
        heads = len(projections[0]) // attention.qk_norm.shape[1]
        for letter, rows in (("q", slice(heads)), ("k", slice(heads, None))):
            for row in attention.qk_norm[rows]:
                norm = stored[f"{name}.self_attn.{letter}_norm.weight"]
                np.testing.assert_array_equal(row, norm)
        for role, value in roles.items():
            np.testing.assert_array_equal(value, stored[f"{name}.{role}.weight"])
    np.testing.assert_array_equal(params.embed, stored["model.embed_tokens.weight"])
    np.testing.assert_array_equal(params.head, stored["lm_head.weight"])
    np.testing.assert_array_equal(params.final_norm, stored["model.norm.weight"])


def test_tied_head_is_the_embedding(folder: Path) -> None:
    params = load(change(folder, {"lm_head.weight": None}, tie_word_embeddings=True))
    assert params.head is params.embed


def test_missing_head_is_not_made_up(folder: Path) -> None:
    # transformers fills it with random numbers
    with pytest.raises(TinymoeError, match=r"missing.*lm_head\.weight"):
        load(change(folder, {"lm_head.weight": None}))


def test_missing_tensors_are_listed(folder: Path) -> None:
    gone = {f"model.layers.0.mlp.experts.{e}.up_proj.weight": None for e in (1, 3)}
    with pytest.raises(TinymoeError, match=r"missing.*experts\.1\.up_proj.*experts\.3\.up_proj"):
        load(change(folder, gone))


def test_wrong_shape_names_both(folder: Path) -> None:
    # a k_proj for two heads where the config has one: numpy would broadcast or fail far away
    name = "model.layers.1.self_attn.k_proj.weight"
    with pytest.raises(TinymoeError, match=rf"{name}.*\(4, 6\), found \(8, 6\)"):
        load(change(folder, {name: np.zeros((8, 6), np.float32)}))


def test_integer_norm_is_refused(folder: Path) -> None:
    # transformers takes an I32 norm weight
    with pytest.raises(TinymoeError, match=r"model\.norm\.weight.*found I32"):
        load(change(folder, {"model.norm.weight": np.ones(6, np.int32)}))


def test_unused_tensor_is_a_warning(folder: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"does not use: model\.layers\.0\.self_attn\.q_proj\.bias"
    ):
        load(change(folder, {"model.layers.0.self_attn.q_proj.bias": np.zeros(8, np.float32)}))


def test_known_extras_pass_in_silence(folder: Path) -> None:
    # multi-token prediction layers lie past the last one; old exporters stored inv_freq
    extra = np.zeros(2, np.float32)
    names = ("model.layers.2.enorm.weight", "model.layers.0.self_attn.rotary_emb.inv_freq")
    load(change(folder, dict.fromkeys(names, extra)))  # a warning would be an error here

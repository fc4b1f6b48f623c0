"""The faults that the lint's tests plant: (clean checkpoint, change, rules that must speak)."""

from __future__ import annotations

import numpy as np

from tests.lint_changes import Change, add, both, drop, edit, index_of, poke, quant, say, times
from tests.lint_folders import Folder, f32
from tinymoe.formats import bf16

Q, UP = "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.experts.3.up_proj"
O_PROJ = "model.layers.0.self_attn.o_proj"
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
INDEX = "model.safetensors.index.json"


def narrow_bias(folder: Folder) -> None:
    """sglang#31213: values close to each other and far from zero."""
    for name in [n for n in folder.tensors if n.endswith("e_score_correction_bias")]:
        count = folder.tensors[name][1].size
        folder.tensors[name] = f32(*np.linspace(6.817, 7.063, count))


def bias_in_bf16(folder: Folder) -> None:
    dtype, bits = folder.tensors[BIAS]
    assert dtype == "F32"
    folder.tensors[BIAS] = ("BF16", bf16.encode(bits))


def head_copy(folder: Folder) -> None:
    folder.config["tie_word_embeddings"] = True
    folder.tensors["lm_head.weight"] = folder.tensors["model.embed_tokens.weight"]


def extra_layer(folder: Folder) -> None:
    folder.tensors["model.layers.3.embed_tokens.weight"] = folder.tensors[
        "model.embed_tokens.weight"
    ]


def row_of(folder: Folder, name: str) -> str:
    """The shard that holds a tensor."""
    return f"model-{list(folder.tensors).index(name) % folder.shards:05}.safetensors"


def other_shard(folder: Folder) -> None:
    name = "model.norm.weight"
    there = int(row_of(folder, name)[6:11])
    folder.index = {name: f"model-{(there + 1) % 3:05}.safetensors"}


NORM = "model.norm.weight"
# what is planted: (clean checkpoint, change, the rules that must speak and no other)
PLANTED: dict[str, tuple[str, Change, set[str]]] = {
    "index-file-missing": ("sharded", index_of(lost=(1,)), {"index-file-missing"}),
    "index-file-missing: a path": (
        "sharded",
        index_of(index={NORM: "../model.safetensors"}),
        {"index-file-missing", "index-tensor-unlisted"},
    ),
    "index-tensor-missing": (
        "sharded",
        index_of(index={"mtp.fc.weight": "model-00001.safetensors"}),
        {"index-tensor-missing"},
    ),
    "index-tensor-missing: elsewhere": (
        "sharded",
        other_shard,
        {"index-tensor-missing", "index-tensor-unlisted"},
    ),
    "index-tensor-unlisted": (
        "sharded",
        both(add("extra", f32(1, 2)), index_of(index={"extra": ""})),
        {"index-tensor-unlisted"},
    ),
    "index-shadowed": (
        "plain",
        lambda folder: folder.files.__setitem__(INDEX, {"weight_map": {"a": "b.safetensors"}}),
        {"index-shadowed"},
    ),
    "family-unknown": ("plain", say(model_type="abacus"), {"family-unknown"}),
    "config-field": ("plain", say(a_new_norm=True), {"config-field"}),
    "config-field: hidden_act": ("plain", say(hidden_act="gelu"), {"config-field"}),
    "config-field: missing": ("plain", say(norm_topk_prob=None), {"config-field"}),
    "config-field: head_dim": ("plain", say(head_dim="x"), {"config-field"}),
    "gating-implied": (
        "fp8",
        say(scoring_func=None),
        {"gating-implied"},
    ),
    "gating-implied: unknown family": (
        "fp8",
        say(scoring_func=None, model_type="abacus"),
        {"gating-implied", "family-unknown"},
    ),
    "scheme-unread": (
        "modelopt",
        quant(quant_algo="NVFP4_FUTURE"),
        {"scheme-unread"},
    ),
    "scheme-contradicts": ("fp8", say(quantization_config=None), {"scheme-contradicts"}),
    "scheme-contradicts: nothing quantised": (
        "plain",
        say(quantization_config={"quant_method": "modelopt", "quant_algo": "NVFP4"}),
        {"scheme-contradicts"},
    ),
    "scheme-contradicts: two answers": (
        "modelopt",
        lambda folder: folder.files.__setitem__(
            "hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}
        ),
        {"scheme-contradicts"},
    ),
    "excluded-but-quantised": (
        "modelopt",
        quant(ignore=["lm_head", "model.layers.*.mlp.gate", "model.layers.1.self_attn*"]),
        {"excluded-but-quantised"},
    ),
    "excluded-but-quantised: expression": (
        "ct",
        quant(ignore=["lm_head", r"re:.*self_attn\.o_proj$"]),
        {"excluded-but-quantised"},
    ),
    "plain-but-not-excluded": (
        "modelopt",
        both(
            drop(*(f"{O_PROJ}.{p}" for p in ("weight_scale", "weight_scale_2", "input_scale"))),
            add(f"{O_PROJ}.weight", ("BF16", np.zeros((80, 96), np.uint16))),
        ),
        {"plain-but-not-excluded"},
    ),
    "exclusion-renamed": (
        "modelopt",
        quant(ignore=["lm_head", "language_model.layers.0.mlp.gate"]),
        {"exclusion-renamed"},
    ),
    "tensor-missing": ("plain", drop(f"{Q}.weight"), {"tensor-missing"}),
    "scale-missing: modelopt": ("modelopt", drop(f"{UP}.weight_scale_2"), {"scale-missing"}),
    "scale-missing": ("fp8", drop(f"{O_PROJ}.weight_scale_inv"), {"scale-missing"}),
    "scale-missing: unknown family": (
        "fp8",
        both(drop(f"{O_PROJ}.weight_scale_inv"), say(model_type="abacus")),
        {"scale-missing", "family-unknown"},
    ),
    "tensor-unused": ("plain", add(f"{Q}.weight_scale", f32(1)), {"tensor-unused"}),
    "tensor-shape": (
        "plain",
        lambda folder: folder.tensors.__setitem__(
            f"{Q}.weight", ("BF16", folder.tensors[f"{Q}.weight"][1].T)
        ),
        {"tensor-shape"},
    ),
    "tensor-shape: vocabulary": ("plain", say(vocab_size=352), {"tensor-shape"}),
    "tensor-dtype": (
        "plain",
        add(NORM, ("I32", np.zeros(80, np.int32))),
        {"tensor-dtype"},
    ),
    "tied-head": ("plain", say(tie_word_embeddings=True), {"tied-head"}),
    "tied-head: not stored": ("plain", drop("lm_head.weight"), {"tied-head"}),
    "tied-head: a copy": ("plain", head_copy, {"tied-head"}),
    "tied-head: not said": ("plain", say(tie_word_embeddings=None), {"tied-head"}),
    "mtp-layers": ("plain", extra_layer, {"mtp-layers"}),
    "mtp-layers: promised": ("fp8", say(num_nextn_predict_layers=1), {"mtp-layers"}),
    "scale-invalid": ("modelopt", poke(f"{UP}.weight_scale", 127, (3, 1)), {"scale-invalid"}),
    "scale-invalid: negative": (
        "ct",
        poke(f"{UP}.weight_scale", 128 + 56, (3, 1)),
        {"scale-invalid"},
    ),
    "scale-invalid: E8M0": (
        "mxfp4",
        poke("model.layers.1.mlp.experts.down_proj_scales", 255, (0, 0, 0)),
        {"scale-invalid"},
    ),
    "scale-invalid: input": ("modelopt", add(f"{UP}.input_scale", f32(np.nan)), {"scale-invalid"}),
    "scale-zero": ("modelopt", poke(f"{UP}.weight_scale", 0), {"scale-zero"}),
    "scale-zero: input": ("modelopt", add(f"{O_PROJ}.input_scale", f32(0)), {"scale-zero"}),
    "scale-zero: empty": (
        "modelopt",
        add(f"{O_PROJ}.input_scale", ("F32", np.zeros((0,), np.float32))),
        {"scale-zero"},
    ),
    "scale-convention": (
        "modelopt",
        times("weight_scale_2", 0, within="experts"),
        {"scale-convention"},
    ),
    "scale-convention: ct": ("ct", times("weight_global_scale", 0), {"scale-convention"}),
    "scale-convention: fp8": ("fp8", times("weight_scale_inv", 0), {"scale-convention"}),
    "scale-convention: both": (
        "modelopt",
        add(f"{Q}.weight_global_scale", f32(4480)),
        {"scale-convention", "scheme-contradicts", "tensor-unused"},
    ),
    "weight-magnitude": ("modelopt", times("weight_scale_2", 1e-6), {"weight-magnitude"}),
    "fused-scale-mismatch": (
        "modelopt",
        times("weight_scale_2", 4, within="experts.3.up_proj"),
        {"fused-scale-mismatch"},
    ),
    "fused-scale-mismatch: q": (
        "ct",
        times("global_scale", 2, Q),
        {"fused-scale-mismatch", "input-scale-mismatch"},
    ),
    "input-scale-missing": ("modelopt", drop(f"{UP}.input_scale"), {"input-scale-missing"}),
    "input-scale-missing: all": (
        "modelopt",
        lambda folder: drop(*(n for n in folder.tensors if n.endswith("input_scale")))(folder),
        {"input-scale-missing"},
    ),
    "input-scale-spread": (
        "modelopt",
        times("input_scale", 300, within="experts.3."),
        {"input-scale-spread"},
    ),
    "input-scale-mismatch": (
        "modelopt",
        times("input_scale", 2, within="experts.3.up_proj"),
        {"input-scale-mismatch"},
    ),
    "input-scale-convention": ("modelopt", times("input_scale", 0), {"input-scale-convention"}),
    "pre-quant-scale": (
        "modelopt",
        add(f"{O_PROJ}.pre_quant_scale", f32(*np.ones(96))),
        {"pre-quant-scale"},
    ),
    "cache-scale-missing": (
        "modelopt",
        drop("model.layers.1.self_attn.v_proj.v_scale"),
        {"cache-scale-missing"},
    ),
    "cache-scale-unannounced": (
        "modelopt",
        quant(kv_cache_quant_algo=None),
        {"cache-scale-unannounced"},
    ),
    "bias-invalid": ("fp8", poke(BIAS, np.nan, 2), {"bias-invalid"}),
    "bias-dtype": ("fp8", bias_in_bf16, {"bias-dtype"}),
    "bias-cast": ("fp8", narrow_bias, {"bias-cast"}),
    "tokenizer-unread": (
        "plain",
        lambda folder: folder.files.__setitem__("tokenizer.json", "{"),
        {"tokenizer-unread"},
    ),
    "token-past-the-end": (
        "plain",
        edit("tokenizer.json", lambda t: t["added_tokens"].append({"id": 344, "content": "<x>"})),
        {"token-past-the-end"},
    ),
    "vocabulary-padding": ("plain", lambda folder: None, {"vocabulary-padding"}),
    "token-id-twice": (
        "plain",
        edit("tokenizer.json", lambda t: t["added_tokens"].append({"id": 5, "content": "<x>"})),
        {"token-id-twice"},
    ),
    "special-id": ("plain", say(pad_token_id=999), {"special-id"}),
    "special-id: nameless": ("plain", say(pad_token_id=343), {"special-id"}),
    "special-token": (
        "plain",
        edit("tokenizer_config.json", lambda t: t.update(eos_token="<|endoftext|>")),
        {"special-token"},
    ),
    "special-token: unknown": (
        "plain",
        edit("tokenizer_config.json", lambda t: t.update(pad_token="<nobody>")),
        {"special-token"},
    ),
}

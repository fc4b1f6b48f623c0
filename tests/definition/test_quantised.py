"""Checkpoints in low precision: what is loaded is what the bytes stand for, or an error says why.

A scale that is dropped, misplaced by a block or divided by in place of multiplied leaves a model
that runs and talks rubbish (llama.cpp#23629, vllm#35656).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.stored import ROOT, Tensors, config_of, load, stored, write
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.families import expected_tensors, load_params, read_config
from tinymoe.formats import bf16, e4m3, fp8

pytestmark = pytest.mark.definition

CASES = sorted(f.name for f in ROOT.iterdir() if f.is_dir() and f.name != "gpt_oss-mxfp4")
MATRICES = ("_proj.weight", "_proj_with_mqa.weight", ".w1.weight", ".w2.weight", ".w3.weight")
FP8 = {
    **{"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"},
    "weight_block_size": [128, 128],
}


def quantised(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Linear weights in FP8 with their scales; the same with the decoder's values in float32."""
    low, plain = dict[str, Any](tensors), dict[str, Any](tensors)
    for name, (dtype, bits) in tensors.items():
        if name.endswith(MATRICES) and bits.ndim == 2:
            w = bf16.decode(bits) if dtype == "BF16" else bits
            q = fp8.encode(
                w, convention="div32", granularity="block", source="float32", power_of_two="no"
            )
            low[name], low[f"{name}_scale_inv"] = ("F8_E4M3", q.codes), ("F32", q.scales)
            plain[name] = ("F32", fp8.decode(q))
    return low, plain


@pytest.mark.parametrize("case", CASES)
def test_fp8_loads_as_the_decoders_values(case: str, tmp_path: Path) -> None:
    # in every family, with every tensor used: a scale that nobody read would be a warning
    low, plain = quantised(stored(case))
    assert len(low) > len(plain)
    got = load(write(tmp_path / "low", low, config_of(case) | {"quantization_config": FP8}))
    wanted = load(write(tmp_path / "plain", plain, config_of(case)))
    assert len(got) == len(wanted) > 10
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def wide() -> tuple[dict[str, Any], Tensors]:
    """DeepSeek-V3 with matrices of several blocks whose last is partial, as 576 = 4.5 * 128."""
    changes = {
        **{"hidden_size": 200, "kv_lora_rank": 140, "num_hidden_layers": 1},
        **{"first_k_dense_replace": 1, "intermediate_size": 130, "vocab_size": 7},
    }
    config, rng = config_of("deepseek_v3") | changes, np.random.default_rng(5)
    return config, {
        name: ("F32", rng.standard_normal(shape).astype(np.float32))
        for name, shape in expected_tensors(read_config(config))
    }


NAME = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"


@pytest.mark.parametrize("preset", ["fp32", "exact"])
def test_partial_blocks_value_by_value(preset: str, tmp_path: Path) -> None:
    # 152 rows and 2 of scales: rows // rows of scales makes blocks of 76, and is wrong
    config, tensors = wide()
    low, _ = quantised(tensors)
    codes, scales = low[NAME][1], low[f"{NAME}_scale_inv"][1]
    assert (codes.shape, scales.shape) == ((152, 200), (2, 2))
    checkpoint = write(tmp_path, low, config | {"quantization_config": FP8})
    params = load_params(checkpoint, read_config(checkpoint.config), NUMERICS[preset])
    got = params.layers[0].attention.down  # type: ignore[union-attr]
    assert got.dtype == NUMERICS[preset].dtype
    values = [e4m3.decode(np.array([code], np.uint8))[0] for code in range(256)]
    for row, column in np.ndindex(*codes.shape):
        scale = scales[row // 128, column // 128]
        exact = Fraction(float(values[codes[row, column]])) * Fraction(float(scale))
        assert got[row, column] == got.dtype.type(float(exact))  # 28 bits: float() is exact


def changed(low: Tensors, **changes: Any) -> Tensors:
    """NAME and its scale changed, or taken away by None."""
    names = {"weight": NAME, "scale": f"{NAME}_scale_inv"}
    whole = dict[str, Any](low) | {names[key]: value for key, value in changes.items()}
    return {name: value for name, value in whole.items() if value is not None}


WRONG: dict[str, tuple[Callable[[Tensors], Tensors], dict[str, Any] | None, str]] = {
    "scale missing": (lambda low: changed(low, scale=None), FP8, rf"missing.*{NAME}_scale_inv"),
    "scale of other blocks": (
        lambda low: changed(low, scale=("F32", np.ones((3, 2), np.float32))),
        FP8,
        r"_scale_inv.*\(2, 2\), found \(3, 2\)",
    ),
    "scale in bytes": (
        lambda low: changed(low, scale=("U8", np.ones((2, 2), np.uint8))),
        FP8,
        "_scale_inv.*expected F32, BF16, F16, found U8",
    ),
    "weight in the other FP8": (
        lambda low: changed(low, weight=("F8_E5M2", low[NAME][1])),
        FP8,
        "found F8_E5M2.*'fp8'",
    ),
    "config says nothing": (lambda low: low, None, "found F8_E4M3.*quantization_config"),
    "smaller blocks": (lambda low: low, FP8 | {"weight_block_size": [64, 64]}, r"_scale_inv"),
    "a vector": (
        lambda low: low | {"model.norm.weight": ("F8_E4M3", np.zeros(200, np.uint8))},
        FP8,
        "model.norm.weight.*matrices",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_contradicts_itself_is_refused_by_name(name: str, tmp_path: Path) -> None:
    change, scheme, says = WRONG[name]
    config, tensors = wide()
    whole = config | ({} if scheme is None else {"quantization_config": scheme})
    checkpoint = write(tmp_path, change(quantised(tensors)[0]), whole)
    with pytest.raises(TinymoeError, match=says):
        load(checkpoint)


@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        ({"quant_method": "gptq"}, "'gptq'.*fp8, mxfp4"),
        ({"bits": 4}, "'quant_method' is missing"),
        ("fp8", "an object"),
        ({"quant_method": "mxfp4"}, "gpt_oss"),
        (FP8 | {"weight_block_size": None}, "weight_block_size"),
        (FP8 | {"weight_block_size": [128]}, "weight_block_size"),
        (FP8 | {"weight_block_size": [128, 0]}, "weight_block_size"),
        (FP8 | {"activation_scheme": "static"}, "'static'"),
        (FP8 | {"fmt": "e5m2"}, "'e5m2'"),
        (FP8 | {"modules_to_not_convert": "lm_head"}, "modules_to_not_convert"),
        (FP8 | {"kv_cache_scheme": {}}, "kv_cache_scheme"),
    ],
)
def test_a_scheme_that_is_not_understood_is_refused(scheme: Any, says: str) -> None:
    # transformers takes a quant_method that it does not know for none at all
    with pytest.raises(TinymoeError, match=says):
        read_config(config_of("deepseek_v3") | {"quantization_config": scheme})


def test_a_tensor_left_alone_is_read_as_it_is(tmp_path: Path) -> None:
    config, tensors = wide()
    low = changed(quantised(tensors)[0], weight=tensors[NAME], scale=None)
    scheme = FP8 | {"modules_to_not_convert": ["kv_a_proj_with_mqa", "lm_head"]}
    checkpoint = write(tmp_path, low, config | {"quantization_config": scheme})
    params = load_params(checkpoint, read_config(checkpoint.config), NUMERICS["fp32"])
    got = params.layers[0].attention.down  # type: ignore[union-attr]
    np.testing.assert_array_equal(got, tensors[NAME][1])


@pytest.mark.parametrize("listed", ["kv_a_proj_with_mqa", "model.layers.*.self_attn", NAME[:-7]])
def test_a_list_that_the_bytes_contradict_is_a_warning(listed: str, tmp_path: Path) -> None:
    # vllm#45132: excluded by name and quantised on disk; read with its scale, and said
    config, tensors = wide()
    low, plain = quantised(tensors)
    scheme = FP8 | {"modules_to_not_convert": [listed]}
    checkpoint = write(tmp_path, low, config | {"quantization_config": scheme})
    with pytest.warns(UserWarning, match=f"not quantised.*{NAME}"):
        params = load_params(checkpoint, read_config(checkpoint.config), NUMERICS["fp32"])
    got = params.layers[0].attention.down  # type: ignore[union-attr]
    np.testing.assert_array_equal(got, plain[NAME][1])


def test_a_scale_beside_a_plain_tensor_is_a_warning(tmp_path: Path) -> None:
    config, tensors = wide()
    low = changed(quantised(tensors)[0], weight=tensors[NAME])
    checkpoint = write(tmp_path, low, config | {"quantization_config": FP8})
    with pytest.warns(UserWarning, match=f"does not use: {NAME}_scale_inv$"):
        load(checkpoint)


@pytest.mark.parametrize("part", ["blocks", "scales"])
def test_mxfp4_without_a_part_is_refused_by_name(part: str, tmp_path: Path) -> None:
    tensors = stored("gpt_oss-mxfp4")
    name = f"model.layers.1.mlp.experts.down_proj_{part}"
    del tensors[name]
    with pytest.raises(TinymoeError, match=f"missing.*{name}"):
        load(write(tmp_path, tensors, config_of("gpt_oss-mxfp4")))


def test_mxfp4_experts_left_alone(tmp_path: Path) -> None:
    # whether listed or not: a stack that is there is read as it is
    config = config_of("gpt_oss") | {"quantization_config": {"quant_method": "mxfp4"}}
    got, wanted = (
        load(write(tmp_path, stored("gpt_oss"), config)),
        load(Checkpoint.open(ROOT / "gpt_oss")),
    )
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)

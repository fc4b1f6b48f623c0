"""Every low-precision layout loads as its format's decoder reads it, bit for bit, or is refused.

A dropped, shifted or inverted scale leaves a model that runs and talks rubbish (llama.cpp#23629).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.low_precision import (
    BLOCK,
    CHANNEL,
    LAYOUTS,
    MX,
    MXFP4,
    NV,
    NVFP4,
    QWEN,
    TENSOR,
    Made,
    ct,
    made,
    modelopt,
    one,
)
from tests.stored import Tensors, load, write
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.families import load_params, read_config
from tinymoe.families.layouts import layout_of
from tinymoe.families.quantised import scheme_of
from tinymoe.oracle.trace import forward_alone

pytestmark = pytest.mark.definition
IDS = [5, 6, 7, 31]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loads_as_the_decoders_values_and_runs(layout: str, tmp_path: Path) -> None:
    case = made(layout)
    checkpoint = write(tmp_path / "low", case.low, case.config)
    got, wanted = load(checkpoint), load(write(tmp_path / "plain", case.plain, QWEN))
    assert len(got) == len(wanted) > 10
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    config = read_config(checkpoint.config)
    for preset in NUMERICS:
        params = load_params(checkpoint, config, NUMERICS[preset])
        logits = forward_alone(params, config, IDS, NUMERICS[preset])
        assert np.isfinite(logits).all()


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name.startswith("modelopt")])
def test_modelopts_own_file_says_the_same(layout: str, tmp_path: Path) -> None:
    # older exports have hf_quant_config.json alone; its list has another name, and wildcards
    case = made(layout)
    said = case.config["quantization_config"]
    checkpoint = write(tmp_path / "low", case.low, QWEN)
    inner = {
        **{"quant_algo": said["quant_algo"], "kv_cache_quant_algo": None},
        "exclude_modules": ["lm_head", "model.layers.*.mlp.gate"],
    }
    file = {"producer": {"name": "modelopt", "version": "0.47.0"}, "quantization": inner}
    (tmp_path / "low" / "hf_quant_config.json").write_text(json.dumps(file))
    wanted = load(write(tmp_path / "plain", case.plain, QWEN))
    for ours, theirs in zip(load(checkpoint), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


MODULE = "model.layers.1.self_attn.o_proj"
WEIGHT_PARTS = [
    (layout, end)
    for layout in LAYOUTS
    for end in made(layout, only="o_proj").modules[MODULE].tensors
    if "input" not in end
]


@pytest.mark.parametrize(("layout", "end"), WEIGHT_PARTS)
def test_a_missing_part_is_refused_by_name(layout: str, end: str, tmp_path: Path) -> None:
    # vllm#35656: a scale of 1 in its place
    case = made(layout)
    del case.low[MODULE + end]
    with pytest.raises(TinymoeError, match=rf"missing.*{MODULE}{end}[,.]"):
        load(write(tmp_path, case.low, case.config))


def wrong(case: Made, end: str, change: Callable[[np.ndarray], np.ndarray]) -> Tensors:
    """One part of MODULE changed."""
    kind, bits = case.low[MODULE + end]
    return case.low | {MODULE + end: (kind, change(np.array(bits)))}


def put(value: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The first element replaced."""

    def change(bits: np.ndarray) -> np.ndarray:
        bits.reshape(-1)[0] = value
        return bits

    return change


NAN_BF16, ZERO_BF16 = 0x7FC0, 0
WRONG: dict[str, tuple[str, str, Callable[[np.ndarray], np.ndarray], str]] = {
    # NaN: what ModelOpt's exporter writes for a tensor of zeros, besides a tensor scale of 0
    "NVFP4 NaN block scale": ("modelopt NVFP4", ".weight_scale", put(0x7F), "E4M3 scales.*1 NaN"),
    "NVFP4 negative block scale": ("ct NVFP4", ".weight_scale", put(0xB8), "E4M3 scales.*1 NaN"),
    "NVFP4 null tensor scale": ("modelopt NVFP4", ".weight_scale_2", put(0), "above zero"),
    "NVFP4 NaN tensor scale": ("ct NVFP4", ".weight_global_scale", put(np.nan), "above zero"),
    "NVFP4 infinite tensor scale": ("ct NVFP4", ".weight_global_scale", put(np.inf), "above zero"),
    "MXFP4 NaN scale": ("ct MXFP4", ".weight_scale", put(255), "E8M0 scales.*1 NaN"),
    "FP8 NaN code": ("modelopt FP8", ".weight", put(0x7F), "E4M3 codes.*1 NaN"),  # sglang#22928
    "FP8 NaN scale": ("ct FP8 channel", ".weight_scale", put(NAN_BF16), "above zero"),
    "FP8 null scale": ("ct FP8 block", ".weight_scale", put(ZERO_BF16), "above zero"),
    "FP8 negative scale": ("modelopt FP8", ".weight_scale", put(-1), "above zero"),
    # modular#6600: each under the other's name
    "a divisor for a multiplier": (
        *("modelopt NVFP4", ".weight_scale_2", np.reciprocal, "read as a multiplier.*other"),
    ),
    "a multiplier for a divisor": (
        *("ct NVFP4", ".weight_global_scale", np.reciprocal, "read as a divisor.*other"),
    ),
    "NVFP4 scales of other blocks": (
        *("ct NVFP4", ".weight_scale", lambda s: s[:, ::2], r"\(96, 6\), found \(96, 3\)"),
    ),
    "MXFP4 scales of other blocks": (
        *("ct MXFP4", ".weight_scale", lambda s: s[:, :2], r"\(96, 3\), found \(96, 2\)"),
    ),
    "FP8 scales of other rows": (
        *("modelopt FP8 channel", ".weight_scale", lambda s: s[:90], r"\(96, 1\), found \(90,\)"),
    ),
    "FP8 one scale for rows": (
        *("ct FP8 channel", ".weight_scale", lambda s: s[0], r"\(96, 1\), found \(1,\)"),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_exporter_means_is_refused_by_name(name: str, tmp_path: Path) -> None:
    layout, end, change, says = WRONG[name]
    case = made(layout)
    checkpoint = write(tmp_path, wrong(case, end, change), case.config)
    with pytest.raises(TinymoeError, match=f"{MODULE}{end}.*{says}"):
        load(checkpoint)


def test_an_nvfp4_block_of_zeros_is_no_error(tmp_path: Path) -> None:
    # 0x00 scales: TransformerEngine's and the kernels', and ModelOpt's before it had a floor
    case = made("modelopt NVFP4")
    checkpoint = write(tmp_path, wrong(case, ".weight_scale", put(0)), case.config)
    params = load_params(checkpoint, read_config(checkpoint.config), NUMERICS["fp32"])
    out = np.asarray(params.layers[1].attention.out)
    assert not out[0, :16].any()
    assert out[0, 16:].any()


@pytest.mark.parametrize("layout", ["modelopt FP8", "ct FP8 block", "modelopt FP8 block"])
def test_partial_last_blocks(layout: str, tmp_path: Path) -> None:
    # 152 = 128 + 24 rows and columns: a block is what the config says, not rows by rows of scales
    case = made(layout, QWEN | {"hidden_size": 152, "num_hidden_layers": 1})
    plain = write(
        tmp_path / "plain", case.plain, QWEN | {"hidden_size": 152, "num_hidden_layers": 1}
    )
    checkpoint = write(tmp_path / "low", case.low, case.config)
    for ours, theirs in zip(load(checkpoint), load(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("layout", ["ct NVFP4", "modelopt NVFP4", "ct MXFP4"])
def test_fp4_has_no_partial_blocks(layout: str, tmp_path: Path) -> None:
    case = made(layout)
    checkpoint = write(tmp_path, case.low, case.config)
    with pytest.raises(TinymoeError, match="o_proj.weight.*104 long.*blocks of (16|32)"):
        layout_of(scheme_of(checkpoint), checkpoint, f"{MODULE}.weight", (96, 104))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_modules_left_alone_are_read_as_they_are(layout: str, tmp_path: Path) -> None:
    # attention in BF16 beside quantised experts: NVIDIA's DeepSeek and Qwen exports
    case = made(layout, only=".experts.")
    name = "exclude_modules" if layout.startswith("modelopt") else "ignore"
    if layout.startswith("DeepSeek"):
        name = "modules_to_not_convert"
    scheme = case.config["quantization_config"] | {name: ["model.layers.*.self_attn*"]}
    checkpoint = write(tmp_path / "low", case.low, case.config | {"quantization_config": scheme})
    wanted = load(write(tmp_path / "plain", case.plain, QWEN))
    for ours, theirs in zip(load(checkpoint), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def group(scheme: dict[str, Any], part: str, **changes: Any) -> dict[str, Any]:
    """A scheme with its group's weights or inputs changed."""
    one_group = scheme["config_groups"]["group_0"]
    return scheme | {"config_groups": {"group_0": one_group | {part: one_group[part] | changes}}}


@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        (group(CHANNEL, "weights", strategy="group"), "config_groups"),
        (group(CHANNEL, "weights", symmetric=False), "config_groups"),
        (group(CHANNEL, "weights", type="int"), "config_groups"),
        (group(CHANNEL, "weights", dynamic=True), "config_groups"),
        (group(BLOCK, "weights", block_structure=[64, 64]), "config_groups"),
        (group(BLOCK, "input_activations", group_size=64), "input_activations"),
        (group(TENSOR, "input_activations", dynamic=True), "input_activations"),
        (group(ct(NVFP4, NV, NV), "input_activations", dynamic=True), "input_activations"),
        (group(ct(MXFP4, MX, MX), "input_activations", dynamic=False), "input_activations"),
        (ct(MXFP4, NV, None), "config_groups"),
        (ct(NVFP4, MX, None), "config_groups"),
        (
            CHANNEL | {"config_groups": {"a": CHANNEL["config_groups"]["group_0"],
                                         "b": TENSOR["config_groups"]["group_0"]}},
            "all say the same",
        ),
        (CHANNEL | {"config_groups": {"a": {"weights": None, "rotation": 1}}}, "rotation"),
        (CHANNEL | {"sparsity_config": {"format": "sparse-24"}}, "sparsity_config"),
        (modelopt("FP8", group_size=64), "group_size"),
        (modelopt("MXFP8"), "'MXFP8'"),
        (modelopt("FP8", quantized_layers={}), "quantized_layers"),
    ],
)  # fmt: skip
def test_a_scheme_that_is_not_understood_is_refused(scheme: Any, says: str) -> None:
    with pytest.raises(TinymoeError, match=says):
        read_config(QWEN | {"quantization_config": scheme})


def test_scalars_in_either_shape(tmp_path: Path) -> None:
    # exporters and versions of them differ between () and (1,)
    case = made("modelopt NVFP4")
    scale = case.modules[MODULE].tensors[".weight_scale_2"][1]
    low = case.low | {f"{MODULE}.weight_scale_2": one(scale, (1,))}
    wanted = load(write(tmp_path / "plain", case.plain, QWEN))
    for ours, theirs in zip(load(write(tmp_path / "low", low, case.config)), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    low |= {f"{MODULE}.weight_scale_2": one(scale, (2,))}
    with pytest.raises(TinymoeError, match=r"weight_scale_2.*shape \(\), found \(2,\)"):
        load(write(tmp_path / "two", low, case.config))

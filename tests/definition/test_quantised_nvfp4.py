"""NVFP4 checkpoints in both layouts: whether the tensor scale multiplies depends on its name.

modular#6600 multiplied by compressed-tensors' divisor: wrong by its square, some 1e-9.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from tests.definition.test_quantised import CASES, MATRICES
from tests.stored import Tensors, config_of, load, write
from tinymoe.core import NUMERICS, QuantTensor, TinymoeError
from tinymoe.families import expected_tensors, load_params, read_config
from tinymoe.families.layouts import layout_of
from tinymoe.families.quantised import scheme_of
from tinymoe.formats import e2m1, e4m3, nvfp4

pytestmark = pytest.mark.definition

Made = Literal["ct", "modelopt"]
CT: dict[str, Any] = {
    **{"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                **{"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
                **{"symmetric": True, "dynamic": False, "scale_dtype": "torch.float8_e4m3fn"},
            },
        }
    },
    "ignore": ["lm_head", "re:.*mlp.gate$"],
    **{"kv_cache_scheme": None, "quantization_status": "compressed", "sparsity_config": {}},
}
MODELOPT: dict[str, Any] = {
    **{"quant_method": "modelopt", "quant_algo": "NVFP4", "producer": {"name": "modelopt"}},
    "ignore": ["lm_head", "model.layers.0.mlp.gate"],
}
SCHEMES: dict[Made, dict[str, Any]] = {"ct": CT, "modelopt": MODELOPT}
PARTS: dict[Made, tuple[str, str, str]] = {
    "ct": (".weight_packed", ".weight_scale", ".weight_global_scale"),
    "modelopt": (".weight", ".weight_scale", ".weight_scale_2"),
}
Quantised = dict[str, QuantTensor]  # by module


def made(by: Made, case: str = "qwen3_moe") -> tuple[dict[str, Any], Tensors, Tensors, Quantised]:
    """A model with linear weights in NVFP4; its config, and the same with the decoder's values.

    Experts are widened in Qwen3, so that down's rows divide into blocks, too.
    """
    wider = {"moe_intermediate_size": 32} if case == "qwen3_moe" else {}
    config, rng = config_of(case) | wider, np.random.default_rng(8)
    low, plain, quantised = Tensors(), Tensors(), Quantised()
    for name, shape in expected_tensors(read_config(config)):
        # every tensor is louder than the one before: a neighbour's scale would be seen
        w = rng.standard_normal(shape).astype(np.float32) * np.float32(1 + len(plain) / 64)
        low[name] = plain[name] = ("F32", w)
        if not name.endswith(MATRICES) or len(shape) != 2 or shape[1] % nvfp4.BLOCK:
            continue
        q = nvfp4.encode(w, convention=by, source="float32", zero_tensor="refuse")
        module = name.removesuffix(".weight")
        codes, scale, tensor_scale = (module + part for part in PARTS[by])
        del low[name]
        low[codes], low[scale] = ("U8", q.codes), ("F8_E4M3", q.scales)
        low[tensor_scale] = ("F32", np.array([q.tensor_scale] if by == "ct" else q.tensor_scale))
        plain[name], quantised[module] = ("F32", nvfp4.decode(q)), q
    return config, low, plain, quantised


@pytest.mark.parametrize("by", SCHEMES)
@pytest.mark.parametrize("case", CASES)
def test_loads_as_the_decoders_values(by: Made, case: str, tmp_path: Path) -> None:
    # in every family, with every tensor used: a scale that nobody read would be a warning
    config, low, plain, _ = made(by, case)
    got = load(write(tmp_path / "low", low, config | {"quantization_config": SCHEMES[by]}))
    wanted = load(write(tmp_path / "plain", plain, config))
    assert len(got) == len(wanted) > 10
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("by", SCHEMES)
def test_value_by_value_where_products_are_exact(by: Made, tmp_path: Path) -> None:
    config, low, _, quantised = made(by)
    checkpoint = write(tmp_path, low, config | {"quantization_config": SCHEMES[by]})
    params = load_params(checkpoint, read_config(checkpoint.config), NUMERICS["exact"])
    q, got = quantised["model.layers.1.self_attn.o_proj"], params.layers[1].attention.out
    codes = e2m1.unpack(q.codes)
    g = Fraction(float(q.tensor_scale or 0))
    for row, column in np.ndindex(16, codes.shape[1]):
        v = Fraction(float(e2m1.decode(codes[row, column : column + 1], code_8="-0")[0]))
        s = Fraction(float(e4m3.decode(q.scales[row, column // 16][None])[0]))
        value = float(v * s / g if by == "ct" else v * s * g)
        # a quotient of scales is rounded once, and its product with 2 bits perhaps once more
        assert abs(got[row, column] - value) <= (np.spacing(abs(value)) if by == "ct" else 0)


def test_modelopts_own_file_alone(tmp_path: Path) -> None:
    # older exports say nothing in config.json
    config, low, plain, _ = made("modelopt")
    said = {"quant_algo": "NVFP4", "group_size": 16, "kv_cache_quant_algo": None}
    checkpoint = write(tmp_path / "low", low, config)
    file = tmp_path / "low" / "hf_quant_config.json"
    with pytest.raises(TinymoeError, match="found U8.*'none'"):
        load(checkpoint)
    file.write_text(json.dumps({"quantization": said | {"exclude_modules": ["lm_head"]}}))
    wanted = load(write(tmp_path / "plain", plain, config))
    for ours, theirs in zip(load(checkpoint), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    file.write_text(json.dumps({"quantization": said | {"quant_algo": "NVFP4_AWQ"}}))
    with pytest.raises(TinymoeError, match=r"hf_quant_config.*'NVFP4_AWQ'"):
        load(checkpoint)


MODULE = "model.layers.1.self_attn.o_proj"


@pytest.mark.parametrize(("by", "part"), [(by, part) for by in SCHEMES for part in PARTS[by]])
def test_a_missing_part_is_refused_by_name(by: Made, part: str, tmp_path: Path) -> None:
    # vllm#35656: a scale of 1 in its place
    config, low, _, _ = made(by)
    del low[MODULE + part]
    checkpoint = write(tmp_path, low, config | {"quantization_config": SCHEMES[by]})
    with pytest.raises(TinymoeError, match=rf"missing.*{MODULE}{part}[,.]"):
        load(checkpoint)


def test_scales_of_activations_belong_to_their_weight(tmp_path: Path) -> None:
    # fp32 and bf16 do not quantise inputs; the scales are no leftovers for all that: thousands of
    # names in a warning would hide one tensor that is (llama.cpp#23629). One too many is named
    config, low, plain, _ = made("modelopt")
    low[f"{MODULE}.input_scale"] = ("F32", np.array(0.5, np.float32))
    checkpoint = write(tmp_path / "low", low, config | {"quantization_config": MODELOPT})
    got, wanted = load(checkpoint), load(write(tmp_path / "plain", plain, config))
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    low["model.layers.1.mlp.gate.input_scale"] = low[f"{MODULE}.input_scale"]
    checkpoint = write(tmp_path / "more", low, config | {"quantization_config": MODELOPT})
    with pytest.warns(UserWarning, match="does not use: model.layers.1.mlp.gate.input_scale$"):
        load(checkpoint)


def test_a_scale_on_the_input_is_refused(tmp_path: Path) -> None:
    config, low, _, _ = made("modelopt")
    low[f"{MODULE}.pre_quant_scale"] = ("F32", np.ones(96, np.float32))
    checkpoint = write(tmp_path, low, config | {"quantization_config": MODELOPT})
    with pytest.raises(TinymoeError, match=f"{MODULE}.*pre_quant_scale"):
        load(checkpoint)


def test_listed_and_stored_quantised_is_a_warning(tmp_path: Path) -> None:
    # vllm#45132: the list says one thing, the bytes another
    config, low, _, _ = made("modelopt")
    scheme = MODELOPT | {"ignore": ["lm_head", "model.layers.1.self_attn*"]}
    checkpoint = write(tmp_path, low, config | {"quantization_config": scheme})
    with pytest.warns(UserWarning, match=f"lists as not quantised.*{MODULE}"):
        load(checkpoint)


def group(**changes: Any) -> dict[str, Any]:
    weights = CT["config_groups"]["group_0"]["weights"] | changes
    return CT | {"config_groups": CT["config_groups"] | {"group_1": {"weights": weights}}}


@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        (CT | {"format": "int-quantized"}, "'int-quantized'"),
        (CT | {"format": "float-quantized"}, "'float-quantized' has"),  # its weights are FP8
        (group(num_bits=8), "config_groups"),
        (group(group_size=32), "config_groups"),
        (CT | {"config_groups": None}, "config_groups"),
        (CT | {"transform_config": {"rotation": 1}}, "transform_config"),
        (CT | {"a_new_field": 1}, "a_new_field"),
        (MODELOPT | {"quant_algo": "MIXED_PRECISION"}, "'MIXED_PRECISION'"),
        (MODELOPT | {"quant_algo": "NVFP4_AWQ"}, "'NVFP4_AWQ'"),
        (MODELOPT | {"quant_algo": "W4A8_NVFP4_FP8"}, "W4A8"),
        (MODELOPT | {"group_size": 32}, "group_size"),
        (MODELOPT | {"ignore": "lm_head"}, "ignore"),
    ],
)
def test_a_scheme_that_is_not_understood_is_refused(scheme: Any, says: str) -> None:
    with pytest.raises(TinymoeError, match=says):
        read_config(config_of("qwen3_moe") | {"quantization_config": scheme})


def test_rows_that_do_not_divide_into_blocks(tmp_path: Path) -> None:
    config, low, _, _ = made("ct")
    checkpoint = write(tmp_path, low, config | {"quantization_config": CT})
    with pytest.raises(TinymoeError, match="24 long.*16"):
        layout_of(scheme_of(checkpoint), checkpoint, f"{MODULE}.weight", (80, 24))

"""Every check of the low-precision ops can fail: the smallest form of bugs that have shipped.

13 of 70 collected engine bugs are in layouts and scales; published tests with tolerances of 0.1
let shifted block scales and swapped nibbles through.
"""

from __future__ import annotations

import numpy as np
import pytest

from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.formats import bf16, e4m3, gemm, nvfp4
from tinymoe.formats.scale_layout import swizzle_8x4
from tinymoe.kernels import formats_ops
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.rows_formats import ROWS
from tinymoe.model.experts import swiglu

pytestmark = pytest.mark.properties
FP32, BF16 = NUMERICS["fp32"], NUMERICS["bf16"]


def normal(*shape, seed=0):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return bf16.round_to_bf16(values)


def ladder(*shape):
    """Values whose blocks differ in loudness by a factor of 1.5 or more."""
    blocks = np.arange(np.prod(shape[:-1]) * (shape[-1] // 16)).reshape(*shape[:-1], -1)
    loud = np.repeat(1 + blocks % 5, 16, axis=-1).astype(np.float32)
    return bf16.round_to_bf16(normal(*shape) * loud)


def nvfp4_weight(*shape):
    packed = formats_ops.quantize_nvfp4(ladder(*shape), 2.0**-9, "modelopt", "float32")
    return {"weight_codes": packed.codes, "weight_scales": packed.scales}


def mxfp4_weight(*shape):
    packed = formats_ops.quantize_mxfp4(ladder(*shape), "ocp_floor")
    return {"weight_codes": packed.codes, "weight_scales": packed.scales}


def coded(weight):
    return {name.replace("weight", "x"): value for name, value in weight.items()}


MODELOPT = {"tensor_scale": 2.0**-9, "convention": "modelopt"}
KERNEL = {"tensor_scale": 300.0, "convention": "kernel"}
OFFSETS = {"offsets": np.array([0, 2, 2, 3], np.int64), "numerics": FP32}
THREE = np.array([0.001, 0.002, 0.003], np.float32)
X = {"x": normal(3, 64, seed=2)}
NV, MX = nvfp4_weight(3, 64), mxfp4_weight(3, 64)
NVS, MXS = nvfp4_weight(3, 3, 64), mxfp4_weight(3, 3, 64)
UP, DOWN = nvfp4_weight(3, 64, 64), nvfp4_weight(3, 5, 32)
FFN = {n.replace("weight", "gate_up"): value for n, value in UP.items()}
FFN |= {n.replace("weight", "down"): value for n, value in DOWN.items()}
CASES = {
    "quantize_nvfp4": {"x": ladder(2, 64), **KERNEL, "source": "bfloat16"},
    "dequantize_nvfp4": {"codes": NV["weight_codes"], "scales": NV["weight_scales"], **MODELOPT},
    "quantize_mxfp4": {"x": ladder(2, 64), "convention": "ocp_floor"},
    "dequantize_mxfp4": {
        "codes": MX["weight_codes"], "scales": MX["weight_scales"], "convention": "ocp_floor",
    },
    "quantize_fp8": {
        "x": normal(3, 130), "convention": "div32", "granularity": "group", "source": "bfloat16",
        "power_of_two": "no",
    },
    "dequantize_fp8": {
        "codes": np.arange(260, dtype=np.uint16).reshape(2, 130).astype(np.uint8),
        "scales": np.array([[0.5, 1.0], [0.3, 0.7]], np.float32),
        "block": (1, 128),
    },
    "swizzle_scales": {"scales": np.arange(1, 131 * 5 + 1).reshape(131, 5).astype(np.uint8)},
    "unswizzle_scales": {
        "flat": np.arange(2048, dtype=np.uint16).astype(np.uint8), "rows": 131, "columns": 5,
    },
    "gemm_nvfp4": {**X, **NV, **MODELOPT, "numerics": BF16},
    "gemm_nvfp4_w4a4": {**coded(NV), **NV, "alpha": 0.001, "numerics": BF16},
    "grouped_gemm_nvfp4": {
        **X, **NVS, "tensor_scales": THREE, "convention": "modelopt", **OFFSETS,
    },
    "grouped_gemm_nvfp4_w4a4": {**coded(NV), **NVS, "alphas": THREE, **OFFSETS},
    "gemm_mxfp4": {**X, **MX, "convention": "gpt_oss", "numerics": FP32},
    "gemm_mxfp4_w4a4": {**coded(MX), **MX, "numerics": FP32},
    "grouped_gemm_mxfp4": {**X, **MXS, "convention": "gpt_oss", **OFFSETS},
    "grouped_gemm_mxfp4_w4a4": {**coded(MX), **MXS, **OFFSETS},
    "expert_ffn_nvfp4_w4a4": {
        **coded(NV), **FFN, "gate_up_alphas": THREE / 2**16, "down_alphas": THREE,
        "hidden_scales": np.array([700, 900, 500], np.float32), **OFFSETS,
    },
}  # fmt: skip


def definition(op, **changes):
    return contract(op).definition(**{**CASES[op], **changes})


def read_as(op, **changes):
    """An implementation that takes its arguments for others."""
    return lambda: definition(op, **{n: change(CASES[op][n]) for n, change in changes.items()})


def gives(op, change):
    """An implementation that changes the right answer."""
    return lambda: change(definition(op))


def swapped(codes):
    return (codes >> 4) | (codes << 4)


def shifted(scales):
    return np.roll(scales, 1, axis=-1)


def one_up(values):
    values = values.copy()
    values.flat[np.abs(values).argmax()] *= 1 + 2.0**-7  # one step of BF16 or less
    return values


def not_requantised(**changes):
    """The intermediate goes into the second product as it is: 0.08 of the result."""
    case = {**CASES["expert_ffn_nvfp4_w4a4"], **changes}
    x, first = {name: case[name] for name in ("x_codes", "x_scales", "offsets", "numerics")}, {}
    for new, old in (("weight_codes", "codes"), ("weight_scales", "scales"), ("alphas", "alphas")):
        first[new] = case[f"gate_up_{old}"]
    hidden = swiglu(formats_ops.grouped_gemm_nvfp4_w4a4(**x, **first), case["numerics"])
    return formats_ops.grouped_gemm_nvfp4(
        x=hidden,
        weight_codes=case["down_codes"],
        weight_scales=case["down_scales"],
        tensor_scales=case["down_alphas"] * case["hidden_scales"],
        offsets=case["offsets"],
        convention="modelopt",
        numerics=case["numerics"],
    )


SPOILED = {
    "quantize_nvfp4: nibbles swapped": gives("quantize_nvfp4", lambda q: (swapped(q[0]), q[1])),
    "quantize_nvfp4: one code": gives(
        "quantize_nvfp4", lambda q: (q[0] ^ (q[0] == q[0].max()), q[1])
    ),
    "quantize_nvfp4: scales zero": gives("quantize_nvfp4", lambda q: (q[0], q[1] * 0)),
    "quantize_nvfp4: scales shifted": gives("quantize_nvfp4", lambda q: (q[0], shifted(q[1]))),
    "quantize_nvfp4: scales as float": gives(
        "quantize_nvfp4", lambda q: (q[0], e4m3.decode(q[1]))
    ),
    "quantize_nvfp4: the divisor multiplies": read_as(
        "quantize_nvfp4", tensor_scale=lambda s: 1 / s
    ),
    "quantize_nvfp4: codes not packed": gives("quantize_nvfp4", lambda q: (q[0][..., :1], q[1])),
    "quantize_nvfp4: codes alone": gives("quantize_nvfp4", lambda q: q[0]),
    "dequantize_nvfp4: nibbles swapped": read_as("dequantize_nvfp4", codes=swapped),
    "dequantize_nvfp4: scales shifted": read_as("dequantize_nvfp4", scales=shifted),
    "dequantize_nvfp4: the scale divides": read_as(
        "dequantize_nvfp4", tensor_scale=lambda s: 1 / s
    ),
    "dequantize_nvfp4: the last bit": gives(
        "dequantize_nvfp4", lambda v: np.nextafter(v, np.float32(np.inf))
    ),
    "dequantize_nvfp4: float64": gives("dequantize_nvfp4", lambda v: v.astype(np.float64)),
    "quantize_mxfp4: the exponent rounded up": read_as(
        "quantize_mxfp4", convention=lambda _: "triton_round_up"
    ),
    "quantize_mxfp4: the bias by one": gives("quantize_mxfp4", lambda q: (q[0], q[1] - 1)),
    "dequantize_mxfp4: the bias by one": read_as("dequantize_mxfp4", scales=lambda s: s - 1),
    "dequantize_mxfp4: nibbles swapped": read_as("dequantize_mxfp4", codes=swapped),
    "quantize_fp8: a scale for the tensor": gives(
        "quantize_fp8", lambda q: (q[0], np.full_like(q[1], q[1].max()))
    ),
    "quantize_fp8: scales inverted": gives("quantize_fp8", lambda q: (q[0], 1 / q[1])),
    "quantize_fp8: one code": gives("quantize_fp8", lambda q: (q[0] ^ (q[0] == 0x7E), q[1])),
    "dequantize_fp8: byte 127 is 480": gives(  # sglang#22928
        "dequantize_fp8", lambda v: np.where(np.isnan(v), np.float32(240), v)
    ),
    "dequantize_fp8: scale_inv divides": read_as("dequantize_fp8", scales=lambda s: 1 / s),
    "swizzle_scales: 8x4 tiles": lambda: np.pad(
        swizzle_8x4(CASES["swizzle_scales"]["scales"]), (0, 960)
    ),
    "swizzle_scales: left row-major": lambda: np.pad(  # vllm#50084
        CASES["swizzle_scales"]["scales"], ((0, 125), (0, 3))
    ).ravel(),
    "swizzle_scales: not padded": gives("swizzle_scales", lambda flat: flat[:-512]),
    "swizzle_scales: ones in the padding": gives(
        "swizzle_scales", lambda flat: np.maximum(flat, 1)
    ),
    "unswizzle_scales: never tiled": gives(
        "unswizzle_scales", lambda s: CASES["unswizzle_scales"]["flat"][: s.size].reshape(s.shape)
    ),
    "unswizzle_scales: rows swapped": gives("unswizzle_scales", lambda s: s[::-1]),
    "gemm_nvfp4: scales shifted": read_as("gemm_nvfp4", weight_scales=shifted),
    "gemm_nvfp4: nibbles swapped": read_as("gemm_nvfp4", weight_codes=swapped),
    "gemm_nvfp4: the divisor multiplies": read_as("gemm_nvfp4", convention=lambda _: "ct"),
    "gemm_nvfp4: one value": gives("gemm_nvfp4", one_up),
    "gemm_nvfp4: activations quantised": read_as(
        "gemm_nvfp4",
        x=lambda x: nvfp4.decode(
            nvfp4.encode(x, convention="kernel", source="bfloat16", zero_tensor="refuse")
        ),
    ),
    "gemm_nvfp4_w4a4: scales of x shifted": read_as("gemm_nvfp4_w4a4", x_scales=shifted),
    "gemm_nvfp4_w4a4: scales shifted": read_as("gemm_nvfp4_w4a4", weight_scales=shifted),
    "gemm_nvfp4_w4a4: alpha lost": read_as("gemm_nvfp4_w4a4", alpha=lambda _: 1.0),
    "gemm_nvfp4_w4a4: one value": gives("gemm_nvfp4_w4a4", one_up),
    "grouped_gemm_nvfp4: the neighbour's weight": read_as(
        "grouped_gemm_nvfp4", weight_codes=lambda w: np.roll(w, 1, axis=0)
    ),
    "grouped_gemm_nvfp4: one scale for all": read_as(  # vllm#54974
        "grouped_gemm_nvfp4", tensor_scales=lambda s: np.full_like(s, s[0])
    ),
    "grouped_gemm_nvfp4: a row to the wrong expert": read_as(
        "grouped_gemm_nvfp4", offsets=lambda _: np.array([0, 1, 1, 3])
    ),
    "grouped_gemm_nvfp4_w4a4: nibbles swapped": read_as(
        "grouped_gemm_nvfp4_w4a4", weight_codes=swapped
    ),
    "grouped_gemm_nvfp4_w4a4: one alpha for all": read_as(
        "grouped_gemm_nvfp4_w4a4", alphas=lambda a: np.full_like(a, a.max())
    ),
    "gemm_mxfp4: the bias by one": read_as("gemm_mxfp4", weight_scales=lambda s: s - 1),
    "gemm_mxfp4: one value": gives("gemm_mxfp4", one_up),
    "gemm_mxfp4_w4a4: scales of x shifted": read_as("gemm_mxfp4_w4a4", x_scales=shifted),
    "gemm_mxfp4_w4a4: one value": gives("gemm_mxfp4_w4a4", one_up),
    "grouped_gemm_mxfp4: a row to the wrong expert": read_as(
        "grouped_gemm_mxfp4", offsets=lambda _: np.array([0, 1, 1, 3])
    ),
    "grouped_gemm_mxfp4: an output missing": gives("grouped_gemm_mxfp4", lambda y: y[:, :-1]),
    "grouped_gemm_mxfp4_w4a4: the neighbour's scales": read_as(
        "grouped_gemm_mxfp4_w4a4", weight_scales=lambda s: np.roll(s, 1, axis=0)
    ),
    "expert_ffn_nvfp4_w4a4: the intermediate left as it is": not_requantised,
    "expert_ffn_nvfp4_w4a4: gate and up swapped": read_as(
        "expert_ffn_nvfp4_w4a4",
        gate_up_codes=lambda w: np.roll(w, 32, axis=1),
        gate_up_scales=lambda s: np.roll(s, 32, axis=1),
    ),
    "expert_ffn_nvfp4_w4a4: one scale of the intermediate for all": read_as(  # vllm#26135
        "expert_ffn_nvfp4_w4a4", hidden_scales=lambda s: np.full_like(s, s[1])
    ),
    "expert_ffn_nvfp4_w4a4: one value": gives("expert_ffn_nvfp4_w4a4", one_up),
    "expert_ffn_nvfp4_w4a4: an output missing": gives("expert_ffn_nvfp4_w4a4", lambda y: y[:, 1:]),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILED)
def test_check_can_fail(name):
    op = name.partition(":")[0]
    contract(op).judge(contract(op).definition, CASES[op])  # the right output passes
    with pytest.raises(AssertionError, match=f"^{op}"):
        contract(op).judge(lambda **case: SPOILED[name](), CASES[op])


def test_every_row_has_a_spoiled_output():
    assert {name.partition(":")[0] for name in SPOILED} == {row.name for row in ROWS} == set(CASES)


@pytest.mark.parametrize("form", ["nvfp4", "mxfp4"])
def test_exact_grid_tolerates_nothing(form):
    # powers of two as scales: the last bit counts, and the sum in whole numbers says which it is
    one, block, weight = (0x38, 16, NV) if form == "nvfp4" else (127, 32, MX)
    codes, scales = weight["weight_codes"], np.full((3, 64 // block), one, np.uint8)
    case = {"x_codes": codes, "x_scales": scales, "weight_codes": codes, "weight_scales": scales}
    case |= {"numerics": FP32} | ({"alpha": 0.25} if form == "nvfp4" else {})
    row = contract(f"gemm_{form}_w4a4")
    row.judge(row.definition, case)
    q = getattr(formats_ops, f"{form}_tensor")(
        codes, scales, *((1.0, "modelopt") if form == "nvfp4" else ())
    )
    whole = gemm.exact(q, q).as_float64() * case.get("alpha", 1)
    assert np.array_equal(row.definition(**case), whole)
    with pytest.raises(AssertionError, match="allowed 0"):
        row.judge(lambda **c: np.nextafter(row.definition(**c), np.float32(np.inf)), case)


def test_a_zero_block_is_each_conventions_own():
    # NVFP4's published quantisers agree on normal data, and part on a block of zeros
    x = np.zeros((1, 32), np.float32)
    x[0, 0] = 1
    bytes_of = {}
    for name, scale in {
        "modelopt": 0.001,
        "ct": 1000.0,
        "torchao": 0.001,
        "kernel": 1000.0,
    }.items():
        q = formats_ops.quantize_nvfp4(x, scale, name, "float32")
        bytes_of[name] = int(q.scales[0, 1])
    assert bytes_of == {"modelopt": 0x38, "ct": 0x20, "torchao": 0x08, "kernel": 0x00}


def test_a_tensor_scale_must_be_of_the_conventions_kind():
    with pytest.raises(TinymoeError, match="tensor_scale: expected none"):
        definition("quantize_nvfp4", convention="torchao_one_level")

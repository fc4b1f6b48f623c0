"""Who means what: one row for each way the bytes are made and read. There is no "the" NVFP4.

Given codes, block scales and tensor scale, the values are the same everywhere (to the last bit of
float32, which `association` settles). How a quantiser arrives at them is not: the same input gives
different bytes in each row. A row states facts; the steps are in `nvfp4.py`, `mxfp4.py`, `fp8.py`.

| tensor scale of NVFP4 | name on disk | meaning |
|---|---|---|
| ModelOpt | weight_scale_2, input_scale | multiplier, amax / 2688 |
| compressed-tensors | weight_global_scale, input_global_scale | divisor, 2688 / amax |
| FlashInfer, vLLM ops | global_scale, SFScale | divisor, 2688 / amax |
| TransformerEngine | amax | neither |

2688 = 6 * 448: the largest E2M1 value times the largest block scale. FP8's "scale" multiplies in
every checkpoint, also where it is called `weight_scale_inv`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeVar

from tinymoe.core import TinymoeError
from tinymoe.formats.e2m1 import RULES, Rule
from tinymoe.formats.e8m0 import Reading

Source = Literal["float32", "bfloat16"]  # dtype of the tensor before it was quantised
ScaleMeaning = Literal["multiplier", "divisor", "amax", "none"]
Association = Literal[
    "product",  # v * (s * g): ModelOpt, torchao, vLLM's dequantize_to_dtype
    "quotient",  # v * (s / G): compressed-tensors
    "reciprocal",  # v * (s * (1 / G)): a divisor given to a kernel as its reciprocal
    "left",  # (v * s) * g: ModelOpt's Triton kernel, Marlin
    "amax",  # v * ((s * amax) * (1 / 2688)): TransformerEngine
    "none",  # v * s: no tensor scale
]


class Nvfp4(NamedTuple):
    """One way to make NVFP4: E2M1 in blocks of 16 along K, an E4M3 scale each."""

    tensor_scale: ScaleMeaning
    element: Rule
    association: Association
    code_8: Literal["-0", "+0"]
    source_matters: bool  # scale arithmetic runs in the dtype of the tensor


_KERNEL = Nvfp4("divisor", RULES["cuda"], "reciprocal", "-0", False)

NVFP4: Mapping[str, Nvfp4] = {
    "modelopt": Nvfp4(  # NVFP4QTensor.quantize; its static quantisers: `nvfp4.encode_static`
        "multiplier", RULES["modelopt_nvfp4"], "product", "+0", False
    ),
    "ct": Nvfp4("divisor", RULES["ct"], "quotient", "-0", True),  # llm-compressor, min-max
    "torchao": Nvfp4("multiplier", RULES["torchao"], "product", "-0", False),
    "torchao_one_level": Nvfp4("none", RULES["torchao"], "none", "-0", False),
    "te": Nvfp4("amax", RULES["te"], "amax", "-0", False),
    "te_2d": Nvfp4("amax", RULES["te"], "amax", "-0", False),  # weights: one scale a 16 x 16 tile
    "kernel": _KERNEL,  # 1/x correctly rounded, nothing flushed, zero scale: zero codes
    "kernel_flashinfer": _KERNEL,  # = TensorRT-LLM cvt_warp_fp16_to_fp4, subnormals flushed
    "kernel_flashinfer_exact": _KERNEL,  # FLASHINFER_DISABLE_FP4_QUANT_FAST_MATH
    "kernel_vllm": _KERNEL,  # scaled_fp4_quant
    "vllm_ref": Nvfp4("divisor", RULES["modelopt_nvfp4"], "reciprocal", "-0", False),
}

Exponent = Literal[
    "floor",  # that of amax, less 2: OCP MX 1.0; the largest may clip
    "floor_log2",  # the same by floor(log2(amax)) in float32
    "even",  # floor, one more from a fraction of 1.75
    "rceil",  # that of amax / 6 rounded up to a power of two: nothing clips
    "rceil_log2",  # the same by ceil(log2(amax / 6)) in float32: misses just above a power of two
    "rceil_rcp",  # the same, amax times a rounded 1/6 in place of amax / 6
    "ceil",  # that of amax rounded up to a power of two, less 2
    "floor6",  # that of amax / 6 rounded down
]
Scaling = Literal[
    "divide",  # x / 2^e
    "divide_normal",  # x / max(2^e, 2^-126)
    "multiply",  # x * 2^-e
    "multiply_one_at_0",  # the same, byte 0: x
    "multiply_zero_at_0",  # the same, byte 0: 0
]


class Mxfp4(NamedTuple):
    """One way to make MXFP4: E2M1 in blocks of 32 along K, an E8M0 scale each."""

    exponent: Exponent
    scaling: Scaling
    element: Rule
    code_8: Literal["-0", "+0"]
    reading: Reading | Literal["ldexp"]  # ldexp: 0.5 at byte 255 is 2^127, not infinity


def _mx(exponent: Exponent, scaling: Scaling, element: str, reading: Reading = "nan") -> Mxfp4:
    return Mxfp4(exponent, scaling, RULES[element], "-0", reading)


MXFP4: Mapping[str, Mxfp4] = {
    "ocp_floor": _mx("floor", "divide", "cuda"),
    "torchao_floor": _mx("floor", "divide_normal", "torchao"),
    "torchao_even": _mx("even", "divide_normal", "torchao"),
    "torchao_ceil": _mx("ceil", "divide_normal", "torchao"),
    "torchao_rceil": _mx("rceil_log2", "multiply_one_at_0", "torchao"),
    "ct": _mx("even", "divide", "ct", "inf"),
    "vllm": _mx("even", "multiply_zero_at_0", "cuda"),  # mxfp4_experts_quant
    "modelopt": Mxfp4("rceil_log2", "divide", RULES["modelopt_mxfp4"], "+0", "inf"),
    "flashinfer": _mx("rceil_rcp", "multiply_one_at_0", "cuda"),
    "gpt_oss": Mxfp4(  # triton_kernels, ROUND_UP; read as the published checkpoints are
        "rceil", "multiply_zero_at_0", RULES["triton_kernels"], "-0", "ldexp"
    ),
    "triton_round_up": _mx("rceil", "multiply_zero_at_0", "triton_kernels", "shift"),
    "triton_round_down": _mx("floor6", "multiply_zero_at_0", "triton_kernels", "shift"),
    "deepgemm": _mx("rceil", "multiply", "deepgemm", "shift"),
}

Fp8Scale = Literal[
    "amax/448",
    "rd(amax/448)",  # rounded to the tensor's dtype
    "rd(amax/448) or eps",  # the same, zero: the dtype's epsilon
    "max(amax,1e-4)/448",
    "max(amax/448,1/(448*512))",
    "max(amax,1e-10)*(1/448)",
    "1/((1/amax)*448)",  # zero: 1
    "1/(448/amax)",  # the library keeps 448/amax; amax <= 2^-24: 1
]
Fp8Element = Literal[
    "w/s",
    "rd(w/s)",  # the quotient rounded to the tensor's dtype before E4M3
    "w*(1/s)",
    "w*((1/amax)*448)",
    "w*(448/amax)",
]


class Fp8(NamedTuple):
    """One way to make E4M3 tensors with float32 scales."""

    scale: Fp8Scale
    element: Fp8Element


FP8: Mapping[str, Fp8] = {
    "modelopt_tensor": Fp8("amax/448", "rd(w/s)"),  # a 0-d scale does not promote BF16
    "modelopt_channel": Fp8("amax/448", "w/s"),  # FP8_PER_CHANNEL_PER_TOKEN
    "modelopt_block": Fp8("amax/448", "w/s"),  # fp8_pb_wo
    "modelopt_qtensor": Fp8("rd(amax/448)", "rd(w/s)"),  # FP8QTensor.quantize, no scale given
    "modelopt_fake": Fp8("1/(448/amax)", "w*(448/amax)"),
    "ct": Fp8("rd(amax/448) or eps", "rd(w/s)"),
    "deepseek_act": Fp8("max(amax,1e-4)/448", "w/s"),  # act_quant
    "deepgemm": Fp8("max(amax,1e-4)/448", "w*(1/s)"),  # per_block_ and per_token_cast_to_fp8
    "transformers": Fp8("1/((1/amax)*448)", "w*((1/amax)*448)"),  # Fp8Quantize
    "vllm_group": Fp8("max(amax/448,1/(448*512))", "w/s"),
    "vllm_token": Fp8("max(amax/448,1/(448*512))", "w*(1/s)"),  # QuantFP8.forward_native; static
    "vllm_triton_group": Fp8("max(amax,1e-10)*(1/448)", "w/s"),
    "div32": Fp8("amax/448", "w/s"),  # everything in float32
}

Row = TypeVar("Row")


def row(table: Mapping[str, Row], convention: str) -> Row:
    """The convention's row; TinymoeError names those there are."""
    if convention not in table:
        raise TinymoeError(
            f"convention: expected one of {', '.join(table)}, got {convention!r}; "
            "there is no default, because the bytes differ"
        )
    return table[convention]

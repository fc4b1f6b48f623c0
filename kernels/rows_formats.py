"""The rows of the op table for low precision: bytes bit for bit, products on codes and scales.

Their arguments are plain arrays, so that any kernel can be held to them: see `formats_ops.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinymoe.kernels import (
    check_formats,
    ffn_nvfp4,
    formats_ops,
    naive_formats,
    naive_gemm,
    naive_nvfp4,
)
from tinymoe.kernels.contract import Contract
from tinymoe.kernels.cuda.table import implementation as cuda

W4A16 = (
    "x times the values that codes and scales stand for, in any order, the tensor scale wherever "
    "it is applied; then one rounding to storage"
)
W4A4 = (
    "code products times both block scales, summed in any order, times alpha; then one rounding "
    "to storage. The judge is the sum in whole numbers"
)


def _bytes(name: str, signature: str, promise: str, naive: Callable[..., Any]) -> Contract:
    """A row whose every bit is said by a function of `formats_ops`."""
    definition = getattr(formats_ops, name)
    return Contract(
        name=name,
        signature=signature,
        exactness="exact",
        promise=promise,
        check=check_formats.bit_for_bit(name, definition),
        implementations={"definition": definition, "naive": naive, **cuda(name)},
    )


def _product(
    name: str,
    signature: str,
    promise: str,
    check: Callable[[str], check_formats.Check],
    naive: Callable[..., Any],
) -> Contract:
    """A row that is exact on the exact grid: E2M1, scales that are powers of two, short sums."""
    return Contract(
        name=name,
        signature=signature,
        exactness="exact on the exact grid",
        promise=promise,
        check=check(name),
        implementations={
            "definition": getattr(formats_ops, name),
            "naive": naive,
            **cuda(name),
        },
    )


_NV_WEIGHT = "weight_codes (N, K/2), weight_scales (N, K/16) uint8"
_MX_WEIGHT = "weight_codes (N, K/2), weight_scales (N, K/32) uint8"
_NV_WEIGHTS = "weight_codes (E, N, K/2), weight_scales (E, N, K/16) uint8"
_MX_WEIGHTS = "weight_codes (E, N, K/2), weight_scales (E, N, K/32) uint8"
_EXPERTS = "each row meets its expert's weight; experts without rows are not read. "

ROWS = (
    _bytes(
        "quantize_nvfp4",
        "x (..., N, K) float32, tensor_scale float or None, convention, source -> "
        "codes (..., N, K/2), scales (..., N, K/16) uint8",
        "the bytes of the named convention; a kernel whose reciprocals are an ulp off differs at "
        "the places that formats.activations.ambiguous_places names, and nowhere else",
        naive_nvfp4.quantize_nvfp4,
    ),
    _bytes(
        "dequantize_nvfp4",
        "codes (..., N, K/2), scales (..., N, K/16) uint8, tensor_scale float or None, convention "
        "-> (..., N, K) float32",
        "the convention's products in its order; NaN for NaN, the sign of zero is free",
        naive_formats.dequantize_nvfp4,
    ),
    _bytes(
        "quantize_mxfp4",
        "x (..., N, K) float32, convention -> codes (..., N, K/2), scales (..., N, K/32) uint8",
        "the bytes of the named convention",
        naive_formats.quantize_mxfp4,
    ),
    _bytes(
        "dequantize_mxfp4",
        "codes (..., N, K/2), scales (..., N, K/32) uint8, convention -> (..., N, K) float32",
        "codes times powers of two, bytes 0 and 255 as the convention reads them",
        naive_formats.dequantize_mxfp4,
    ),
    _bytes(
        "quantize_fp8",
        "x (N, K) float32, convention, granularity (tensor, channel, block or group), source, "
        "power_of_two -> codes (N, K) uint8, scales float32: (), (N, 1), (N/128, K/128) or "
        "(N, K/128)",
        "the bytes and scales of the named convention; a ragged edge as if padded with zeros",
        naive_formats.quantize_fp8,
    ),
    _bytes(
        "dequantize_fp8",
        "codes (N, K) uint8, scales float32, block: rows and columns to a scale -> (N, K) float32",
        "one product for each value; 0x7f and 0xff are NaN",
        naive_formats.dequantize_fp8,
    ),
    _bytes(
        "swizzle_scales",
        "scales (M, Ks) uint8 -> (ceil(M/128) * 128 * ceil(Ks/4) * 4,) uint8",
        "128x4 tiles, zeros where there is no scale",
        naive_formats.swizzle_scales,
    ),
    _bytes(
        "unswizzle_scales",
        "flat uint8, rows, columns -> (rows, columns) uint8",
        "128x4 tiles read back; what lies in the padding does not matter",
        naive_formats.unswizzle_scales,
    ),
    _product(
        "gemm_nvfp4",
        f"x (T, K), {_NV_WEIGHT}, tensor_scale float, convention, numerics -> (T, N)",
        W4A16,
        check_formats.w4a16,
        naive_gemm.gemm_nvfp4,
    ),
    _product(
        "gemm_nvfp4_w4a4",
        f"x_codes (T, K/2), x_scales (T, K/16) uint8, {_NV_WEIGHT}, alpha float, numerics "
        "-> (T, N)",
        W4A4,
        check_formats.w4a4,
        naive_gemm.gemm_nvfp4_w4a4,
    ),
    _product(
        "grouped_gemm_nvfp4",
        f"x (S, K) in expert order, {_NV_WEIGHTS}, tensor_scales (E,) float32, offsets (E + 1,), "
        "convention, numerics -> (S, N)",
        _EXPERTS + W4A16,
        check_formats.grouped_w4a16,
        naive_gemm.grouped(naive_gemm.gemm_nvfp4),
    ),
    _product(
        "grouped_gemm_nvfp4_w4a4",
        f"x_codes (S, K/2), x_scales (S, K/16) uint8 in expert order, {_NV_WEIGHTS}, "
        "alphas (E,) float32, offsets (E + 1,), numerics -> (S, N)",
        _EXPERTS + W4A4,
        check_formats.grouped_w4a4,
        naive_gemm.grouped(naive_gemm.gemm_nvfp4_w4a4),
    ),
    _product(
        "gemm_mxfp4",
        f"x (T, K), {_MX_WEIGHT}, convention, numerics -> (T, N)",
        W4A16,
        check_formats.w4a16,
        naive_gemm.gemm_mxfp4,
    ),
    _product(
        "gemm_mxfp4_w4a4",
        f"x_codes (T, K/2), x_scales (T, K/32) uint8, {_MX_WEIGHT}, numerics -> (T, N)",
        W4A4,
        check_formats.w4a4,
        naive_gemm.gemm_mxfp4_w4a4,
    ),
    _product(
        "grouped_gemm_mxfp4",
        f"x (S, K) in expert order, {_MX_WEIGHTS}, offsets (E + 1,), convention, numerics "
        "-> (S, N)",
        _EXPERTS + W4A16,
        check_formats.grouped_w4a16,
        naive_gemm.grouped(naive_gemm.gemm_mxfp4),
    ),
    _product(
        "grouped_gemm_mxfp4_w4a4",
        f"x_codes (S, K/2), x_scales (S, K/32) uint8 in expert order, {_MX_WEIGHTS}, "
        "offsets (E + 1,), numerics -> (S, N)",
        _EXPERTS + W4A4,
        check_formats.grouped_w4a4,
        naive_gemm.grouped(naive_gemm.gemm_mxfp4_w4a4),
    ),
    Contract(
        name="expert_ffn_nvfp4_w4a4",
        signature="x_codes (S, H/2), x_scales (S, H/16) uint8 in expert order, gate_up_codes "
        "(E, 2I, H/2), gate_up_scales (E, 2I, H/16) uint8, gate_up_alphas (E,) float32, "
        "hidden_scales (E,) float32 divisors, down_codes (E, H, I/2), down_scales (E, H, I/16) "
        "uint8, down_alphas (E,) float32, offsets (E + 1,), numerics -> (S, H)",
        exactness="derived bound",
        promise="both products in W4A4; between them silu(gate) * up, stored and quantised again "
        "by the kernels' arithmetic. A code may differ where rounding before it can flip it",
        check=ffn_nvfp4.check,
        implementations={
            "definition": ffn_nvfp4.expert_ffn_nvfp4_w4a4,
            "naive": naive_gemm.expert_ffn_nvfp4_w4a4,
            **cuda("expert_ffn_nvfp4_w4a4"),
        },
    ),
)

"""The ops of low precision as a kernel is called: plain arrays by name, no `QuantTensor`.

Thin forms of `tinymoe/formats`, which says what each step means. Codes are packed, low nibble
first; NVFP4 scales are E4M3 bytes, MXFP4's E8M0 bytes, FP8's float32. A tensor scale is a Python
float that is a float32 value, of the meaning that its convention has (`conventions.NVFP4`):
a multiplier, a divisor, an amax, or None.

Two kinds of product. W4A16, `gemm_nvfp4`: activations as they are times the values that the weight
stands for. W4A4, `gemm_nvfp4_w4a4`: codes on both sides; alpha is the product of both tensor
scales as multipliers, which the caller computes (`formats.gemm.alpha`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tinymoe.core import Array, Numerics, QuantTensor
from tinymoe.formats import conventions, fp8, gemm, mxfp4, nvfp4
from tinymoe.formats.conventions import NVFP4, Source
from tinymoe.formats.fp8 import Granularity, PowerOfTwo
from tinymoe.formats.scale_layout import swizzle_128x4, unswizzle_128x4
from tinymoe.model.precision import linear, store

MX_PLAIN = "ocp_floor"  # a convention that reads E8M0 by its definition


class Packed(NamedTuple):
    """What a quantiser gives."""

    codes: Array  # uint8: (..., N, K/2), low nibble first; FP8 (N, K)
    scales: Array  # uint8 (..., N, K/block); FP8 float32


def nvfp4_tensor(
    codes: Array, scales: Array, tensor_scale: float | None, convention: str
) -> QuantTensor:
    """The plain arrays as one value of `tinymoe/formats`."""
    row = conventions.row(NVFP4, convention)
    return QuantTensor(
        format="nvfp4",
        convention=convention,
        codes=codes,
        scales=scales,
        block=(nvfp4.TILE if convention == "te_2d" else 1, nvfp4.BLOCK),
        tensor_scale=None if tensor_scale is None else np.float32(tensor_scale),
        tensor_scale_is=row.tensor_scale,
    )


def mxfp4_tensor(codes: Array, scales: Array, convention: str = MX_PLAIN) -> QuantTensor:
    """The plain arrays as one value of `tinymoe/formats`."""
    return QuantTensor(
        format="mxfp4",
        convention=convention,
        codes=codes,
        scales=scales,
        block=(1, mxfp4.BLOCK),
        tensor_scale=None,
        tensor_scale_is="none",
    )


# ------------------------------------------------------------------------ there and back


def quantize_nvfp4(x: Array, tensor_scale: float | None, convention: str, source: Source) -> Packed:
    """x (..., N, K) float32 under a given tensor scale; see `nvfp4.encode_with`."""
    scale = None if tensor_scale is None else np.float32(tensor_scale)
    q = nvfp4.encode_with(x, scale, convention=convention, source=source)
    return Packed(q.codes, q.scales)


def dequantize_nvfp4(
    codes: Array, scales: Array, tensor_scale: float | None, convention: str
) -> Array:
    """The values (..., N, K) float32; see `nvfp4.decode`."""
    return nvfp4.decode(nvfp4_tensor(codes, scales, tensor_scale, convention))


def quantize_mxfp4(x: Array, convention: str) -> Packed:
    """x (..., N, K) float32; see `mxfp4.encode`."""
    q = mxfp4.encode(x, convention=convention)
    return Packed(q.codes, q.scales)


def dequantize_mxfp4(codes: Array, scales: Array, convention: str) -> Array:
    """The values (..., N, K) float32; see `mxfp4.decode`."""
    return mxfp4.decode(mxfp4_tensor(codes, scales, convention))


def quantize_fp8(
    x: Array, convention: str, granularity: Granularity, source: Source, power_of_two: PowerOfTwo
) -> Packed:
    """x (N, K) float32; see `fp8.encode`."""
    q = fp8.encode(
        x,
        convention=convention,
        granularity=granularity,
        source=source,
        power_of_two=power_of_two,
    )
    return Packed(q.codes, q.scales)


def dequantize_fp8(codes: Array, scales: Array, block: tuple[int, int]) -> Array:
    """The values (N, K) float32, `block` rows and columns to a scale; see `fp8.decode_blocks`."""
    return fp8.decode_blocks(codes, scales, block)


def swizzle_scales(scales: Array) -> Array:
    """(M, Ks) bytes to flat 128x4 tiles; see `scale_layout.swizzle_128x4`."""
    return swizzle_128x4(scales)


def unswizzle_scales(flat: Array, rows: int, columns: int) -> Array:
    """Flat 128x4 tiles to (rows, columns) bytes; see `scale_layout.unswizzle_128x4`."""
    return unswizzle_128x4(flat, rows, columns)


# ------------------------------------------------------------------------------ products


def gemm_nvfp4(
    x: Array,
    weight_codes: Array,
    weight_scales: Array,
    tensor_scale: float,
    convention: str,
    numerics: Numerics,
) -> Array:
    """W4A16: x (T, K) as stored times the values of a weight (N, K) -> (T, N)."""
    weight = dequantize_nvfp4(weight_codes, weight_scales, tensor_scale, convention)
    return linear(x, weight, numerics)


def gemm_mxfp4(
    x: Array, weight_codes: Array, weight_scales: Array, convention: str, numerics: Numerics
) -> Array:
    """W4A16: x (T, K) as stored times the values of a weight (N, K) -> (T, N)."""
    return linear(x, dequantize_mxfp4(weight_codes, weight_scales, convention), numerics)


def gemm_nvfp4_w4a4(
    x_codes: Array,
    x_scales: Array,
    weight_codes: Array,
    weight_scales: Array,
    alpha: float,
    numerics: Numerics,
) -> Array:
    """W4A4: alpha * sum of code products times both block scales, blocks in order along K."""
    x = nvfp4_tensor(x_codes, x_scales, 1.0, "modelopt")
    weight = nvfp4_tensor(weight_codes, weight_scales, alpha, "modelopt")
    return _product(x, weight, numerics)


def gemm_mxfp4_w4a4(
    x_codes: Array, x_scales: Array, weight_codes: Array, weight_scales: Array, numerics: Numerics
) -> Array:
    """W4A4: the sum of code products times both block scales, blocks in order along K."""
    x, weight = mxfp4_tensor(x_codes, x_scales), mxfp4_tensor(weight_codes, weight_scales)
    return _product(x, weight, numerics)


def _product(x: QuantTensor, weight: QuantTensor, numerics: Numerics) -> Array:
    """Accumulated in float32, alpha after the sum, then one rounding to storage."""
    sums = gemm.emulated(x, weight)  # (T, N)
    out = gemm.epilogue(
        sums, gemm.alpha(x, weight), placement="float32", output="float32", bias=None
    )
    return store(out.astype(numerics.dtype), numerics.storage)


def grouped_gemm_nvfp4(
    x: Array,
    weight_codes: Array,
    weight_scales: Array,
    tensor_scales: Array,
    offsets: Array,
    convention: str,
    numerics: Numerics,
) -> Array:
    """W4A16, rows x (S, K) in expert order, weights (E, N, K): each row meets its expert's."""
    out = np.empty((len(x), weight_codes.shape[1]), numerics.dtype)  # (S, N)
    for e, (start, stop) in enumerate(pairwise(offsets.tolist())):
        if start < stop:
            scale = float(tensor_scales[e])
            given = (weight_codes[e], weight_scales[e], scale, convention, numerics)
            out[start:stop] = gemm_nvfp4(x[start:stop], *given)
    return out


def grouped_gemm_mxfp4(
    x: Array,
    weight_codes: Array,
    weight_scales: Array,
    offsets: Array,
    convention: str,
    numerics: Numerics,
) -> Array:
    """W4A16, rows x (S, K) in expert order, weights (E, N, K): each row meets its expert's."""
    out = np.empty((len(x), weight_codes.shape[1]), numerics.dtype)  # (S, N)
    for e, (start, stop) in enumerate(pairwise(offsets.tolist())):
        if start < stop:
            given = (weight_codes[e], weight_scales[e], convention, numerics)
            out[start:stop] = gemm_mxfp4(x[start:stop], *given)
    return out


def grouped_gemm_nvfp4_w4a4(
    x_codes: Array,
    x_scales: Array,
    weight_codes: Array,
    weight_scales: Array,
    alphas: Array,
    offsets: Array,
    numerics: Numerics,
) -> Array:
    """W4A4, rows (S, K) in expert order, weights (E, N, K), alphas (E,)."""
    out = np.empty((len(x_codes), weight_codes.shape[1]), numerics.dtype)  # (S, N)
    for e, (start, stop) in enumerate(pairwise(offsets.tolist())):
        if start < stop:
            out[start:stop] = gemm_nvfp4_w4a4(
                x_codes[start:stop],
                x_scales[start:stop],
                weight_codes[e],
                weight_scales[e],
                float(alphas[e]),
                numerics,
            )
    return out


def grouped_gemm_mxfp4_w4a4(
    x_codes: Array,
    x_scales: Array,
    weight_codes: Array,
    weight_scales: Array,
    offsets: Array,
    numerics: Numerics,
) -> Array:
    """W4A4, rows (S, K) in expert order, weights (E, N, K)."""
    out = np.empty((len(x_codes), weight_codes.shape[1]), numerics.dtype)  # (S, N)
    for e, (start, stop) in enumerate(pairwise(offsets.tolist())):
        if start < stop:
            rows = (x_codes[start:stop], x_scales[start:stop])
            out[start:stop] = gemm_mxfp4_w4a4(*rows, weight_codes[e], weight_scales[e], numerics)
    return out

"""NVFP4: E2M1 in blocks of 16 along K, an E4M3 scale a block, a float32 scale a tensor.

    value ~= E2M1[code] * E4M3[scale] * g        g = amax / 2688, or 1 / G

Every operation is float32, rounded to nearest even, one rounding each, in the order the
parentheses say; `rd` rounds to BF16 where a convention computes in the tensor's own dtype. The
order is the convention: two that are equal on paper give other bytes on a few blocks in a hundred,
most of all for BF16 weights, whose quotients often fall exactly on a tie.

The steps of each convention are in `nvfp4_encoders.py`. Here: whole tensors, there and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.formats import bf16, conventions, e2m1, e4m3
from tinymoe.formats.checks import as_bytes, as_float32, finite_blocks
from tinymoe.formats.conventions import NVFP4, Association, ScaleMeaning, Source
from tinymoe.formats.nvfp4_encoders import ENCODERS, PEAK, SIX, TINY

BLOCK = 16  # elements that share a block scale
TILE = 16  # rows that share it too, in TransformerEngine's 2-D weights
FOUR_OVER_SIX_TOP = 256.0  # E4M3 top that leaves room for blocks scaled to 4 instead of to 6

Scalar = np.floating[Any]


def tensor_scale(amax: float | Scalar, *, convention: str, source: Source) -> Scalar | None:
    """The second-level scale for a tensor whose largest magnitude is `amax`, float32.

    What it means is the convention's `tensor_scale`: multiplier, divisor, amax, or none (None).
    Kernels get theirs from a caller: here it is as vLLM's callers compute it. A caller who divides
    otherwise passes its own to `encode_with`. An amax of zero gives what the library's arithmetic
    gives: see `encode`.
    """
    row = conventions.row(NVFP4, convention)
    a = np.float32(amax)
    with np.errstate(all="ignore"):
        if row.tensor_scale == "none":
            return None
        if row.tensor_scale == "multiplier":
            return np.float32(a / PEAK)
        if row.tensor_scale == "amax":
            return a
        # torch's `2688.0 / tensor` is reciprocal, then multiply, each rounded to the dtype: another
        # last bit than one division's for a quarter of all values. In compressed-tensors the dtype
        # is the weights', so with BF16 its G has eight significant bits (35328.0, 30976.0).
        rd = _rounding(source if row.source_matters else "float32")
        largest = np.maximum(a, TINY) if convention == "ct" else a
        divisor = np.float32(rd(rd(np.float32(1) / largest) * PEAK))
        return np.float32(1) if convention == "ct" and not np.isfinite(divisor) else divisor


def fused_tensor_scale(scales: Sequence[Scalar], *, meaning: ScaleMeaning) -> Scalar:
    """One tensor scale for matrices that engines fuse (q/k/v, gate/up): that of the loudest.

    The largest multiplier or amax, the smallest divisor. Quantise each member with it: engines
    keep one and drop the rest (vllm#54974: 69 % of gate/up pairs differed, by up to 10x).
    """
    if meaning == "none" or not scales:
        raise TinymoeError(
            f"scales: expected multipliers, divisors or amax values, got {len(scales)} of "
            f"meaning {meaning!r}; a one-level format has nothing to fuse"
        )
    return min(scales) if meaning == "divisor" else max(scales)


def encode(
    x: Array,
    *,
    convention: str,
    source: Source,
    zero_tensor: Literal["refuse", "zeros", "as_library"],
) -> QuantTensor:
    """x (..., N, K) float32 to NVFP4, the tensor scale from x itself.

    source: dtype of x before it was widened to float32; compressed-tensors computes in it.
    zero_tensor: what to do when every value is zero. "zeros": tensor scale 1, scale bytes and
    codes 0, the one answer that every decoder reads as zeros. "as_library": its own answer, which
    is NaN scales in ModelOpt and torchao. "refuse": TinymoeError.
    Errors: K not a multiple of 16, x not finite, x not a BF16 value where source says BF16.

    >>> x = np.array([[0.5, -1.0, 1.5, 3.0] * 4], np.float32)
    >>> for name in ("modelopt", "ct"):
    ...     q = encode(x, convention=name, source="bfloat16", zero_tensor="refuse")
    ...     print(q.codes[0, :2].tolist(), q.scales.tolist(), q.tensor_scale, q.tensor_scale_is)
    [194, 117] [[126]] 0.0011160715 multiplier
    [194, 117] [[126]] 896.0 divisor
    """
    x = as_float32("x", x)
    finite_blocks("x", x, BLOCK)
    amax = np.abs(x).max()
    if amax == 0 and zero_tensor == "refuse":
        raise TinymoeError(
            f"x: expected a non-zero value, got zeros in shape {x.shape}; NVFP4 libraries disagree "
            'on such a tensor: zero_tensor="zeros" writes what all of them read as zeros'
        )
    if amax == 0 and zero_tensor == "zeros":
        return _all_zero(x, convention)
    scale = tensor_scale(amax, convention=convention, source=source)
    return encode_with(x, scale, convention=convention, source=source)


def encode_with(
    x: Array, tensor_scale: Scalar | None, *, convention: str, source: Source
) -> QuantTensor:
    """x (..., N, K) float32 to NVFP4 under a given tensor scale: a fused group's, or a calibrated.

    tensor_scale: of the meaning that the convention has (`conventions.NVFP4`); None for one-level.
    Louder tensors than it was made for clip twice: scales at 448, codes at 6 (imp#1544).
    """
    row = conventions.row(NVFP4, convention)
    blocks = finite_blocks("x", x, BLOCK)  # (..., N, K/16, 16)
    if source == "bfloat16" and not np.array_equal(bf16.round_to_bf16(blocks), blocks):
        raise TinymoeError(
            f"x: expected BF16 values, as source='bfloat16' says, got others in shape {x.shape}; "
            "round them first (tinymoe.formats.bf16.round_to_bf16) or say 'float32'"
        )
    if (tensor_scale is None) != (row.tensor_scale == "none"):
        raise TinymoeError(
            f"tensor_scale: expected {row.tensor_scale} for {convention!r}, got {tensor_scale!r}"
        )
    amax = np.abs(blocks).max(axis=-1, keepdims=True)  # (..., N, K/16, 1)
    if convention == "te_2d":
        amax = _tile_maxima(amax)
    scale = np.float32(1) if tensor_scale is None else np.float32(tensor_scale)
    with np.errstate(all="ignore"):  # underflow, 0 * inf, 0 / 0: each convention has its own
        scales, elements = ENCODERS[convention](blocks, amax, scale, _rounding(source))
        codes = e2m1.encode(elements, row.element)
    return _assembled(codes, scales, convention, None if tensor_scale is None else scale)


def encode_static(
    x: Array, block_amax: Array, amax: float | Scalar, *, four_over_six: bool
) -> QuantTensor:
    """ModelOpt's static quantisers: block maxima (..., N, K/16) and tensor amax from calibration.

    scale = e4m3(clamp(((block_amax/6) * top) / (amax/6), 2^-9, 448)), top 448; with four over six
    256, and g = amax / (6*256). Decoding is that of "modelopt".
    """
    blocks = finite_blocks("x", x, BLOCK)
    maxima = as_float32("block_amax", block_amax)
    if maxima.shape != blocks.shape[:-1] or not amax > 0:
        raise TinymoeError(
            f"block_amax, amax: expected shape {blocks.shape[:-1]} and a positive number, got "
            f"{maxima.shape} and {amax}"
        )
    top, whole = np.float32(FOUR_OVER_SIX_TOP if four_over_six else e4m3.MAX), np.float32(amax)
    with np.errstate(all="ignore"):
        g = whole / (SIX * top)
        per_six = maxima[..., None] / SIX
        per_six = np.where(per_six == 0, np.float32(1), per_six)
        s = (per_six * top) / (whole / SIX)
        scales = e4m3.saturated(np.clip(s, np.float32(e4m3.MIN_SUBNORMAL), np.float32(e4m3.MAX)))
        codes = e2m1.encode(blocks / (e4m3.decode(scales) * g), NVFP4["modelopt"].element)
    return _assembled(codes, scales, "modelopt", g)


def decode(
    q: QuantTensor,
    *,
    association: Association | None = None,
    dtype: np.dtype[Any] | type = np.float32,
) -> Array:
    """The values (..., N, K) float32: exact products but for the scales' own.

    association: None is that of the tensor's convention. They differ in the last bit only.
    dtype: np.float64 computes in it, where products are exact: 2 + 4 + 24 bits.
    """
    row = conventions.row(NVFP4, q.convention)
    how = _association(q, association or row.association)
    codes = e2m1.unpack(q.codes)
    if codes.shape != (*q.scales.shape[:-1], q.scales.shape[-1] * BLOCK):
        raise TinymoeError(
            f"scales: expected one byte for {BLOCK} values, (..., K/16), got scales "
            f"{q.scales.shape} for values {codes.shape}; tiled scales go back by unswizzle_128x4"
        )
    v = e2m1.decode(codes, code_8=row.code_8).reshape(*codes.shape[:-1], -1, BLOCK).astype(dtype)
    s = e4m3.decode(as_bytes("scales", q.scales))[..., None].astype(dtype)  # (..., N, K/16, 1)
    g = np.dtype(dtype).type(1 if q.tensor_scale is None else q.tensor_scale)
    with np.errstate(all="ignore"):
        return _product(v, s, g, how).reshape(codes.shape)


def _product(v: Array, s: Array, g: Scalar, how: Association) -> Array:
    """Element, block scale and tensor scale together, each operation rounded once."""
    if how == "product":
        return v * (s * g)
    if how == "quotient":
        return v * (s / g)
    if how == "reciprocal":
        return v * (s * (np.float32(1) / g))
    if how == "left":
        return (v * s) * g
    if how == "amax":
        return v * ((s * g) * (np.float32(1) / PEAK))
    return v * s


_MEANT_BY: dict[Association, ScaleMeaning] = {
    "product": "multiplier",
    "left": "multiplier",
    "quotient": "divisor",
    "reciprocal": "divisor",
    "amax": "amax",
    "none": "none",
}


def _association(q: QuantTensor, wanted: Association) -> Association:
    """`wanted`, if it reads this tensor's scale for what it is.

    modular#6600 multiplied by a divisor. A kernel's tensor may carry the multiplier that its
    divisor was made from.
    """
    if wanted == "reciprocal" and q.tensor_scale_is == "multiplier":
        return "product"
    if _MEANT_BY[wanted] != q.tensor_scale_is:
        raise TinymoeError(
            f"association: {wanted!r} reads a {_MEANT_BY[wanted]}, but the tensor scale "
            f"{q.tensor_scale!r} is a {q.tensor_scale_is}"
        )
    return wanted


def _rounding(source: Source) -> Any:
    return bf16.round_to_bf16 if source == "bfloat16" else (lambda values: values)


def _tile_maxima(amax: Array) -> Array:
    """Block maxima (..., N, K/16, 1) to those of 16 x 16 tiles, repeated over their 16 rows."""
    rows = amax.shape[-3] if amax.ndim >= 3 else 0
    if rows == 0 or rows % TILE:
        raise TinymoeError(
            f"x: expected rows in multiples of {TILE} for 2-D scales, got {rows}; pad with zeros"
        )
    tiles = amax.reshape(*amax.shape[:-3], rows // TILE, TILE, *amax.shape[-2:])
    return np.repeat(tiles.max(axis=-3), TILE, axis=-3)  # (..., N, K/16, 1)


def _all_zero(x: Array, convention: str) -> QuantTensor:
    scale = None if NVFP4[convention].tensor_scale == "none" else np.float32(1)
    blocks = np.zeros((*x.shape[:-1], x.shape[-1] // BLOCK, BLOCK), np.uint8)
    return _assembled(blocks, blocks[..., :1], convention, scale)


def _assembled(codes: Array, scales: Array, convention: str, scale: Scalar | None) -> QuantTensor:
    """Codes (..., K/16, 16) and scale bytes (..., K/16, 1), packed and named."""
    flat = codes.reshape(*codes.shape[:-2], -1)  # (..., K)
    return QuantTensor(
        format="nvfp4",
        convention=convention,
        codes=e2m1.pack(flat),
        scales=np.ascontiguousarray(scales[..., 0]),
        block=(TILE if convention == "te_2d" else 1, BLOCK),
        tensor_scale=scale,
        tensor_scale_is=NVFP4[convention].tensor_scale,
    )

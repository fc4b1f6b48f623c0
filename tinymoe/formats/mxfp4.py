"""MXFP4: E2M1 in blocks of 32 along K, an E8M0 scale a block, no tensor scale (OCP MX 1.0).

    value ~= E2M1[code] * 2^(byte - 127)

The format is one; the exponent of a block is not. OCP's minimum rule, floor(log2(amax)) - 2, clips
a largest value above 6 * 2^k; others round the exponent up. `conventions.MXFP4` says who does what.

| amax | 1 | 1.5 | 1.75 | 3 | 3.2 | 3.5 | 4 | 6 | 6.5 | 7 | 8 |
|---|---|---|---|---|---|---|---|---|---|---|---|
| floor | 125 | 125 | 125 | 126 | 126 | 126 | 127 | 127 | 127 | 127 | 128 |
| even | 125 | 125 | 126 | 126 | 126 | 127 | 127 | 127 | 127 | 128 | 128 |
| rceil | 125 | 125 | 126 | 126 | 127 | 127 | 127 | 127 | 128 | 128 | 128 |
| ceil | 125 | 126 | 126 | 127 | 127 | 127 | 127 | 128 | 128 | 128 | 128 |
| floor6 | 124 | 125 | 125 | 126 | 126 | 126 | 126 | 127 | 127 | 127 | 127 |

Activations are quantised by the same functions, a row at a time: nothing is calibrated.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np

from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.formats import conventions, e2m1, e8m0
from tinymoe.formats.checks import as_bytes, as_float32, finite_blocks
from tinymoe.formats.conventions import MXFP4, Exponent, Mxfp4, Scaling
from tinymoe.formats.e2m1 import Rule

BLOCK = 32  # elements that share a scale
EMAX = 2  # exponent of E2M1's largest value, 6
SIX = np.float32(6)
ONE = np.float32(1)
_POWERS = [(e, Fraction(2) ** e) for e in range(-130, 129)]
# DeepGEMM's bounds: amax at least 1e-4, so that the byte is at least 112; and the byte to 1..254
DEEPGEMM_MIN_AMAX = np.float32(1e-4)


def encode(x: Array, *, convention: str) -> QuantTensor:
    """x (..., N, K) float32 to MXFP4 as the named library does it.

    Errors: K not a multiple of 32, x not finite.
    """
    row = conventions.row(MXFP4, convention)
    blocks = finite_blocks("x", x, BLOCK)  # (..., N, K/32, 32)
    amax = np.abs(blocks).max(axis=-1, keepdims=True)  # (..., N, K/32, 1)
    if convention == "deepgemm":
        amax = np.maximum(amax, DEEPGEMM_MIN_AMAX)
    scales = block_scales(amax, exponent=row.exponent)
    if convention == "ct":
        # rounding such an amax overflows to infinity, and 127 is what its cast makes of that
        scales = np.where(amax >= np.float32(1.75 * 2.0**127), np.uint8(127), scales)
    if convention == "deepgemm":
        scales = np.clip(scales, 1, e8m0.MAX_BYTE).astype(np.uint8)
    codes = e2m1.encode(_scaled(blocks, scales, row.scaling), row.element)
    return _assembled(codes, scales, convention)


def encode_by_rule(
    x: Array, *, exponent: Exponent, scaling: Scaling, element: Rule
) -> tuple[Array, Array]:
    """x (..., K) float32 to codes (..., K) and scale bytes (..., K/32), any rules together."""
    blocks = finite_blocks("x", x, BLOCK)
    scales = block_scales(np.abs(blocks).max(axis=-1, keepdims=True), exponent=exponent)
    codes = e2m1.encode(_scaled(blocks, scales, scaling), element)
    return codes.reshape(x.shape), scales[..., 0]


def block_scales(amax: Array, *, exponent: Exponent) -> Array:
    """Block maxima (float32, any shape, finite, not negative) to E8M0 bytes, at least 0.

    By the bits of amax, but for the two log2 rules, which follow their libraries' float32 log2:
    it rounds onto the whole number just above a power of two, and the ceil is missed.
    """
    a = as_float32("amax", amax)
    bits = a.view(np.uint32).astype(np.int64)
    if exponent == "floor":
        byte = (bits >> 23) - EMAX
    elif exponent == "even":
        byte = ((bits + (1 << 21)) >> 23) - EMAX  # up from a fraction of 1.75
    elif exponent == "ceil":
        byte = ((bits + 0x7FFFFF) >> 23) - EMAX
    elif exponent == "floor_log2":
        byte = np.floor(_log2(a)).astype(np.int64) + e8m0.BIAS - EMAX
    elif exponent == "rceil_log2":
        byte = np.ceil(_log2(a / SIX)).astype(np.int64) + e8m0.BIAS
    else:
        sixth = a * (ONE / SIX) if exponent == "rceil_rcp" else a / SIX
        bits = sixth.view(np.uint32).astype(np.int64)
        byte = (bits + (0 if exponent == "floor6" else 0x7FFFFF)) >> 23
    return np.clip(byte, 0, e8m0.MAX_BYTE).astype(np.uint8)


def block_scale_naive(amax: float, *, exponent: Exponent) -> int:
    """The twin: powers of two tried one by one, exactly; for the rules that need no log2."""
    a = Fraction(amax)
    if exponent in ("rceil", "floor6"):
        a = Fraction(float(np.float32(amax) / SIX))
    below = max(e for e, power in _POWERS if power <= a)
    above = min(e for e, power in _POWERS if power >= a)
    exponents = {
        "floor": below - EMAX,
        "even": below - EMAX + (a / Fraction(2) ** below >= Fraction(7, 4)),
        "ceil": above - EMAX,
        "rceil": above,
        "floor6": below,
    }
    return min(max(exponents[exponent] + e8m0.BIAS, 0), e8m0.MAX_BYTE)


def decode(q: QuantTensor) -> Array:
    """The values (..., N, K) float32, read as the tensor's convention reads codes and scales."""
    row = conventions.row(MXFP4, q.convention)
    return decode_by_rule(q.codes, q.scales, row=row)


def decode_by_rule(packed: Array, scales: Array, *, row: Mxfp4) -> Array:
    """Bytes (..., K/2) and scale bytes (..., K/32) to values (..., K) float32."""
    values, s = e2m1.decode_packed(packed, code_8=row.code_8), as_bytes("scales", scales)
    if values.shape != (*s.shape[:-1], s.shape[-1] * BLOCK):
        raise TinymoeError(
            f"scales: expected one byte for {BLOCK} values, (..., K/32), got scales {s.shape} for "
            f"values {values.shape}; a stored gpt-oss tensor goes through decode_gpt_oss"
        )
    blocks = values.reshape(*s.shape, BLOCK)
    with np.errstate(all="ignore"):
        if row.reading != "ldexp":
            blocks *= e8m0.decode(s, reading=row.reading)[..., None]
        else:  # by half the power, then doubled: 2^128 is no float32, and 0.5 * 2^128 is one
            blocks *= np.ldexp(ONE, s.astype(np.int32) - e8m0.BIAS - 1)[..., None]
            blocks += blocks
    return values


def decode_gpt_oss(blocks: Array, scales: Array) -> Array:
    """gpt-oss `*_blocks` (E, N, K/32, 16) and `*_scales` (E, N, K/32) to (E, N, K) float32.

    16 bytes are 32 values along the input. Rows of gate_up stay interleaved as stored: 2i is gate,
    2i + 1 up. transformers' convert_moe_packed_tensors returns the transpose, (E, K, N).
    """
    b = as_bytes("blocks", blocks)
    if b.ndim < 2 or b.shape[-1] != BLOCK // 2 or b.shape[:-1] != scales.shape:
        raise TinymoeError(
            f"blocks: expected (E, N, K/32, 16) with scales (E, N, K/32), got {b.shape} with "
            f"{scales.shape}"
        )
    return decode_by_rule(b.reshape(*b.shape[:-2], -1), scales, row=MXFP4["gpt_oss"])


def round_microxcaling(x: Array, *, ties: Literal["even", "away"]) -> Array:
    """x (..., K) float32 as microxcaling fake-quantises it: values, floor(log2(amax)) - 2."""
    blocks = finite_blocks("x", x, BLOCK)
    maxima = np.abs(blocks).max(axis=-1, keepdims=True)
    power = e8m0.decode(block_scales(maxima, exponent="floor_log2"), reading="nan")
    return (e2m1.round_microxcaling(blocks / power, ties=ties) * power).reshape(np.shape(x))


def to_nvfp4(q: QuantTensor) -> QuantTensor:
    """The same values as NVFP4, exactly: same nibbles, g = 2^(k_max - 8), scale 2^(k - k_max + 8).

    Possible while the exponents of the tensor span 17 or less: E4M3 has the powers 2^-9 to 2^8.
    """
    k = as_bytes("scales", q.scales).astype(np.int32) - e8m0.BIAS
    if k.max() - k.min() > 17 or q.scales.max() == e8m0.NAN_BYTE or k.max() < 8 - 126:
        raise TinymoeError(
            f"scales: expected exponents of a span up to 17 and above -119, got {k.min()} to "
            f"{k.max()} in shape {k.shape}; E4M3 block scales cannot hold them"
        )
    power = k - k.max() + 8
    byte = np.where(power >= -6, (power + 7) << 3, 1 << np.maximum(power + 9, 0))
    return QuantTensor(
        format="nvfp4",
        convention="modelopt",
        codes=q.codes,
        scales=np.repeat(byte.astype(np.uint8), 2, axis=-1),  # (..., N, K/16)
        block=(1, BLOCK // 2),
        tensor_scale=np.float32(2.0 ** (int(k.max()) - 8)),
        tensor_scale_is="multiplier",
    )


def _log2(values: Array) -> Array:
    """float32 log2, zero and what is below byte 0 as -127."""
    with np.errstate(divide="ignore"):
        return np.maximum(np.log2(values), np.float32(-e8m0.BIAS))


def _scaled(x: Array, scales: Array, how: Scaling) -> Array:
    """What E2M1 rounds. Powers of two: exact unless float32 runs out of range."""
    power = e8m0.decode(scales, reading="nan")
    with np.errstate(all="ignore"):
        if how == "divide":
            return x / power
        if how == "divide_normal":
            return x / np.maximum(power, np.finfo(np.float32).tiny)
        inverse = ONE / power
        if how == "multiply_one_at_0":
            inverse = np.where(scales == 0, ONE, inverse)
        elif how == "multiply_zero_at_0":
            inverse = np.where(scales == 0, np.float32(0), inverse)
        return x * inverse


def _assembled(codes: Array, scales: Array, convention: str) -> QuantTensor:
    """Codes (..., K/32, 32) and bytes (..., K/32, 1), packed and named."""
    return QuantTensor(
        format="mxfp4",
        convention=convention,
        codes=e2m1.pack(codes.reshape(*codes.shape[:-2], -1)),
        scales=np.ascontiguousarray(scales[..., 0]),
        block=(1, BLOCK),
        tensor_scale=None,
        tensor_scale_is="none",
    )

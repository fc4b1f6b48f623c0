"""MXFP4 and NVFP4 as GGUF files hold them, and as ggml quantises: three differences.

Nibbles: not neighbours. In an MXFP4 block byte j holds element j (low) and j + 16 (high); in a
sub-block of NVFP4 element j and j + 8. Scales: a UE4M3 with rounding of its own and no tensor
scale, so weights of usual size (0.02) land in its subnormals and a naively quantised NVFP4 GGUF is
poor; one converted from ModelOpt keeps `weight_scale_2` in a tensor of its own, `<name>.scale`,
which multiplies the matmul's output. Elements: the nearest of all 16 by float32 distance, the
first of equals, so never code 8.
"""

from __future__ import annotations

import numpy as np

from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.formats import e2m1, e4m3
from tinymoe.formats.checks import as_bytes, as_float32, finite_blocks

MXFP4_BLOCK, MXFP4_BYTES = 32, 17  # one E8M0 byte, then 16 bytes of nibbles
NVFP4_BLOCK, NVFP4_BYTES = 64, 36  # four UE4M3 bytes, then 32 bytes of nibbles
NVFP4_SUB = 16  # elements of a sub-block, which share a scale
# Twice the E2M1 values, as whole numbers; code 8 is +0. Scales are halved to match.
KERNEL_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def encode_ue4m3(values: Array) -> Array:
    """float32 to UE4M3 bytes by ggml's rule, which is not round to nearest even.

    Normals round half up (17 to 18); subnormals are int(x * 512 + 0.5), at most 7; everything
    from 248 up is 448, because exponent field 15 counts as out of range. Zero, negative, NaN: 0.
    """
    x = as_float32("values", values)
    bits = np.where(x > 0, x, np.float32(0)).view(np.uint32).astype(np.int64)
    field = (bits >> 23) - 127 + 7
    normal = np.minimum((field << 3) + ((bits >> 20) & 7) + ((bits >> 19) & 1), 15 << 3)
    normal = np.where(normal >= 15 << 3, 0x7E, normal)
    small = np.where((field <= 0) & (x > 0), x, np.float32(0))
    subnormal = np.minimum((small * np.float32(512) + np.float32(0.5)).astype(np.int64), 7)
    return np.where(field <= 0, subnormal, normal).astype(np.uint8)


def decode_ue4m3(codes: Array) -> Array:
    """UE4M3 bytes to float32: bit 7 ignored, 0x7f is 0."""
    b = as_bytes("codes", codes) & 0x7F
    return e4m3.decode(np.where(b == e4m3.NAN, 0, b).astype(np.uint8))


def encode_mxfp4(x: Array) -> Array:
    """x (..., K) float32 to rows (..., K/32 * 17) of bytes, as ggml quantises.

    The scale is floor(log2(amax)) - 2 + 127 cut to a byte without a clamp: it wraps to 232..255
    for amax below 2^-125.
    """
    blocks = finite_blocks("x", x, MXFP4_BLOCK)
    amax = np.abs(blocks).max(axis=-1, keepdims=True)
    exponent = np.floor(np.log2(np.where(amax > 0, amax, np.float32(1)))).astype(np.int64)
    e = np.where(amax > 0, (exponent - 2 + 127) & 0xFF, 0).astype(np.uint8)
    codes = _best_index(blocks, _half_e8m0(e))
    rows = np.concatenate([e, _pack_halves(codes)], axis=-1)  # (..., K/32, 17)
    return rows.reshape(*rows.shape[:-2], -1)


def decode_mxfp4(rows: Array) -> Array:
    """Rows of bytes (..., K/32 * 17) to values (..., K) float32."""
    b = _block_bytes(rows, MXFP4_BYTES)
    codes = _unpack_halves(b[..., 1:])  # (..., K/32, 32)
    with np.errstate(over="ignore"):
        values = np.array(KERNEL_VALUES, np.float32)[codes] * _half_e8m0(b[..., :1])
    return values.reshape(*b.shape[:-2], -1)


def encode_nvfp4(x: Array) -> Array:
    """x (..., K) float32 to rows (..., K/64 * 36) of bytes, as ggml quantises: no tensor scale."""
    finite_blocks("x", x, NVFP4_BLOCK)
    subs = finite_blocks("x", x, NVFP4_SUB)  # (..., K/16, 16)
    d = encode_ue4m3(np.abs(subs).max(axis=-1, keepdims=True) / np.float32(6))
    codes = _best_index(subs, decode_ue4m3(d) * np.float32(0.5))
    return _nvfp4_rows(codes, d)


def decode_nvfp4(rows: Array) -> Array:
    """Rows of bytes (..., K/64 * 36) to values (..., K) float32, before any `.scale` tensor."""
    b = _block_bytes(rows, NVFP4_BYTES)
    nibbles = b[..., 4:].reshape(*b.shape[:-1], 4, NVFP4_SUB // 2)
    codes = _unpack_halves(nibbles)  # (..., K/64, 4, 16)
    d = decode_ue4m3(b[..., :4])[..., None] * np.float32(0.5)
    values = np.array(KERNEL_VALUES, np.float32)[codes] * d
    return values.reshape(*b.shape[:-2], -1)


def from_nvfp4(q: QuantTensor) -> tuple[Array, np.float32]:
    """A checkpoint's NVFP4 as GGUF rows and the number for its `.scale` tensor.

    Nibbles reordered, scale bytes without their sign bit, g = the multiplier or 1/G.
    """
    if q.format != "nvfp4" or q.tensor_scale_is == "amax" or q.shape[-1] % NVFP4_BLOCK:
        raise TinymoeError(
            f"q: expected NVFP4 with a multiplier or a divisor and K a multiple of {NVFP4_BLOCK}, "
            f"got {q.format} with {q.tensor_scale_is} and shape {q.shape}"
        )
    codes = e2m1.unpack(q.codes).reshape(*q.scales.shape, NVFP4_SUB)
    scale = np.float32(1 if q.tensor_scale is None else q.tensor_scale)
    if q.tensor_scale_is == "divisor":
        scale = np.float32(1) / scale
    return _nvfp4_rows(codes, q.scales[..., None] & 0x7F), scale


def _best_index(x: Array, half_scale: Array) -> Array:
    """Codes: the least |fl(k * d) - x| in float32, the first of equals."""
    best = np.zeros(x.shape, np.uint8)
    with np.errstate(over="ignore"):
        least = np.abs(np.float32(0) * half_scale - x)
        for code, k in enumerate(KERNEL_VALUES):
            error = np.abs(np.float32(k) * half_scale - x)
            best = np.where(error < least, np.uint8(code), best)
            least = np.minimum(error, least)
    return best


def _half_e8m0(e: Array) -> Array:
    """2^(e - 128) in float32, exactly, also where that is subnormal."""
    return np.ldexp(np.float32(1), e.astype(np.int32) - 128)


def _pack_halves(codes: Array) -> Array:
    """Codes (..., 2n) to bytes (..., n): the first half in the low nibbles."""
    half = codes.shape[-1] // 2
    return codes[..., :half] | (codes[..., half:] << 4)


def _unpack_halves(packed: Array) -> Array:
    return np.concatenate([packed & 0xF, packed >> 4], axis=-1)


def _nvfp4_rows(codes: Array, d: Array) -> Array:
    """Codes (..., K/16, 16) and scale bytes (..., K/16, 1) to rows (..., K/64 * 36)."""
    lead = codes.shape[:-2]
    nibbles = _pack_halves(codes).reshape(*lead, -1, NVFP4_BLOCK // 2)  # (..., K/64, 32)
    rows = np.concatenate([d.reshape(*lead, -1, 4), nibbles], axis=-1)  # (..., K/64, 36)
    return rows.reshape(*lead, -1)


def _block_bytes(rows: Array, size: int) -> Array:
    b = as_bytes("rows", rows)
    if b.ndim == 0 or not b.size or b.shape[-1] % size:
        raise TinymoeError(f"rows: expected blocks of {size} bytes, got shape {b.shape}")
    return b.reshape(*b.shape[:-1], -1, size)

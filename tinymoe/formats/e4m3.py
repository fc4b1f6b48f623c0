"""E4M3 (E4M3FN), the eight-bit float: 1 sign, 4 exponent and 3 fraction bits. Bias 7.

No infinity; NaN is 0x7f and 0xff alone; the largest value is 448 (0x7e), the smallest normal
2^-6 (0x08), the smallest subnormal 2^-9 (0x01). UE4M3, the type of NVFP4 block scales, is the same
with bit 7 clear. Bytes are kept in uint8.

Every library rounds to nearest, ties to even (ggml aside: `ggml.encode_ue4m3`). They
part where a value is too large, so every call says what becomes of it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np

from tinymoe.core import Array
from tinymoe.formats import exact
from tinymoe.formats.checks import as_bytes, as_float32

MAX = 448.0  # 0x7e
MIN_NORMAL = 2.0**-6  # 0x08
MIN_SUBNORMAL = 2.0**-9  # 0x01; half of it, a tie, rounds to zero
NAN = 0x7F  # with bit 7 free

Overflow = Literal[
    "saturate",  # above 464, infinity included, to 448: CUDA satfinite, torch 2.13
    "nan",  # above 464, infinity included, to NaN: ml_dtypes, CUDA NOSAT, torch up to 2.11
]
NanSign = Literal["kept", "positive"]  # torch, ml_dtypes: 0xff for -NaN; CUDA: always 0x7f


def _table() -> Array:
    """The 256 values. NaN's payload is the byte's fraction moved up, as torch widens it."""
    byte = np.arange(256, dtype=np.uint32)
    exponent, fraction = (byte >> 3) & 0xF, byte & 7
    subnormal = fraction * np.float32(MIN_SUBNORMAL)
    normal = np.ldexp((8 + fraction).astype(np.float32), exponent.astype(np.int32) - 10)
    values = np.where(exponent == 0, subnormal, normal).astype(np.float32)
    bits = values.view(np.uint32)
    bits[(byte & 0x7F) == NAN] = 0x7FF00000
    return (bits | (byte >> 7 << 31)).view(np.float32)


_VALUES = _table()


def decode(codes: Array) -> Array:
    """Bytes (uint8, any shape) to float32, exactly. 0x7f and 0xff are NaN (sglang#22928)."""
    return _VALUES[as_bytes("codes", codes)]


def encode(values: Array, *, overflow: Overflow, nan_sign: NanSign) -> Array:
    """float32 (any shape) to bytes (uint8): nearest, ties to even.

    464 is half way between 448 and the absent 480 and goes to 448; what lies above, `overflow`
    says.
    """
    x = as_float32("values", values)
    magnitude = x.view(np.uint32) & 0x7FFFFFFF
    # normals: add half of the 20 dropped bits (ties to even), drop them, rebias from 127 to 7.
    # NaN and infinity are replaced first, so that the addition cannot wrap.
    bounded = np.minimum(magnitude, 0x44000000)  # 512: far enough above 464
    normal = ((bounded + 0x7FFFF + ((bounded >> 20) & 1)) >> 20).astype(np.int32) - (120 << 3)
    # subnormals: a whole number of 2^-9; the product is exact, rint takes ties to even
    small = np.minimum(np.abs(x), np.float32(MIN_NORMAL))
    subnormal = np.rint(np.where(np.isnan(small), np.float32(0), small) * np.float32(512))
    code = np.where(magnitude < 0x3C800000, subnormal.astype(np.int32), normal)  # 2^-6
    code = np.where(code > 0x7E, 0x7E if overflow == "saturate" else NAN, code)
    nan = magnitude > 0x7F800000
    code = np.where(nan, NAN, code)
    sign = np.signbit(x) & ~nan if nan_sign == "positive" else np.signbit(x)
    return (code | (sign.astype(np.int32) << 7)).astype(np.uint8)


def encode_naive(value: float, *, overflow: Overflow) -> int:
    """The twin: one finite value, the nearest of 128 magnitudes, where 480 stands for too large."""
    magnitudes = [*(float(v) for v in _VALUES[:NAN]), 480.0]
    code = exact.nearest(abs(Fraction(value)), magnitudes, ties="even")
    if code == NAN and overflow == "saturate":
        code = 0x7E
    return code + 128 * bool(np.signbit(np.float32(value)))


def saturated(values: Array) -> Array:
    """Finite float32 to bytes: the conversion that every quantiser here uses for its scales."""
    return encode(values, overflow="saturate", nan_sign="kept")

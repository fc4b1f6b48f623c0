"""E8M0, a power of two in a byte: b means 2^(b - 127), for b = 0..254; 255 is NaN.

No zero, no sign. b = 0 is 2^-127, a float32 subnormal, which is where decoders part; 255 is the
other place. The scales of MXFP4 blocks are E8M0.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.formats.checks import as_bytes, as_float32

BIAS = 127
MAX_BYTE = 254  # 2^127
NAN_BYTE = 255

Reading = Literal[
    "nan",  # b = 0 is 2^-127, 255 is NaN: the definition; torch, ml_dtypes
    "inf",  # b = 0 is 2^-127, 255 is 2^128, infinity: ModelOpt, compressed-tensors, ggml
    "shift",  # b << 23 as float32: 0 is 0.0, 255 infinity: triton_kernels, DeepGEMM
]
Rounding = Literal[
    "down",  # to the power of two below (round to zero)
    "up",  # to the one above: PTX cvt.rp
    "half_up",  # to the nearer one by the fraction, 1.5 and 3 up: torch, ml_dtypes
]


def decode(codes: Array, *, reading: Reading) -> Array:
    """Bytes (uint8, any shape) to float32, exactly."""
    b = as_bytes("codes", codes).astype(np.uint32)
    bits = b << 23
    if reading != "shift":
        bits = np.where(b == 0, np.uint32(0x00400000), bits)  # 2^-127
    if reading == "nan":
        bits = np.where(b == NAN_BYTE, np.uint32(0x7FC00000), bits)
    return bits.astype(np.uint32).view(np.float32)


def encode(values: Array, *, rounding: Rounding, overflow: Literal["nan", "saturate"]) -> Array:
    """Positive normal float32 to bytes.

    overflow: rounding up from above 2^127 gives 255, NaN (torch), or 254 (CUDA satfinite).
    Errors: zero, negative, subnormal, infinite or NaN input, for which E8M0 has no value.
    """
    x = as_float32("values", values)
    bits = x.view(np.uint32)
    if not ((bits >= 0x00800000) & (bits < 0x7F800000)).all():
        raise TinymoeError(
            "values: expected positive normal float32 (E8M0 has no zero and no sign), got "
            f"{float(x.min())} to {float(x.max())} in shape {x.shape}"
        )
    add = {"down": 0, "up": 0x7FFFFF, "half_up": 0x400000}[rounding]
    byte = (bits + add) >> 23
    return np.minimum(byte, NAN_BYTE if overflow == "nan" else MAX_BYTE).astype(np.uint8)


def encode_naive(value: float, *, rounding: Rounding) -> int:
    """The twin: try the bytes from below, exactly. 255 where the power would be 2^128."""
    x = Fraction(value)
    byte = max(b for b in range(255) if Fraction(2) ** (b - BIAS) <= x)
    fraction = x / Fraction(2) ** (byte - BIAS) - 1
    if rounding == "up" and fraction > 0:
        return byte + 1
    return byte + (rounding == "half_up" and fraction >= Fraction(1, 2))

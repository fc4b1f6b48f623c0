"""BF16: the upper half of a float32. 1 sign, 8 exponent and 7 fraction bits.

Values are kept in float32 arrays (every BF16 value is a float32 value), bits in uint16 arrays.
"""

from __future__ import annotations

import numpy as np

from tinymoe.core import Array


def decode(bits: Array) -> Array:
    """BF16 bits (uint16, any shape) to the same values in float32: exact, NaN payloads kept."""
    widened: Array = (bits.astype(np.uint32) << 16).view(np.float32)
    return widened


def encode(values: Array) -> Array:
    """float32 to BF16 bits (uint16): round to nearest, ties to even; NaN stays NaN.

    Adding 0x7fff plus the lowest kept bit carries into the upper half exactly when the lower
    half is above one half, or is one half and the kept bit is odd. Too large becomes infinity.
    """
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    # the carry could turn a NaN with a low payload into infinity: keep it a quiet NaN
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    chosen: Array = np.where(is_nan, (bits >> 16) | 0x40, rounded).astype(np.uint16)
    return chosen


def round_to_bf16(values: Array) -> Array:
    """float32 (or float64) to the nearest BF16 value, held in float32.

    float64 rounds twice, through float32; the definition never asks for that.
    """
    return decode(encode(values))

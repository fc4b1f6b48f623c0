"""What a quantiser accepts: finite float32 values whose last axis divides into whole blocks."""

from __future__ import annotations

import numpy as np

from tinymoe.core import Array, TinymoeError


def as_float32(name: str, values: Array) -> Array:
    """`values` as float32, exactly. float64 is refused: it would round twice, once unseen."""
    array = np.asarray(values)
    if array.dtype not in (np.float32, np.float16):
        raise TinymoeError(
            f"{name}: expected float32 (BF16 values are kept in float32), got {array.dtype} "
            f"{array.shape}; convert it where the rounding can be seen: values.astype(np.float32)"
        )
    return np.asarray(array, np.float32)


def as_bytes(name: str, values: Array) -> Array:
    """`values` as they are, if they are uint8."""
    array = np.asarray(values)
    if array.dtype != np.uint8:
        raise TinymoeError(
            f"{name}: expected uint8 codes, got {array.dtype} {array.shape}; "
            "take the bytes of a float8 array with array.view(np.uint8)"
        )
    return array


def finite_blocks(name: str, values: Array, size: int) -> Array:
    """values (..., K) to blocks (..., K / size, size) of finite float32.

    What a maximum or a cast makes of NaN and infinity differs from platform to platform, so no
    convention defines it: they are refused.
    """
    array = as_float32(name, values)
    if array.ndim == 0 or array.shape[-1] == 0 or array.shape[-1] % size:
        raise TinymoeError(
            f"{name}: expected a last axis K that divides into blocks of {size}, got shape "
            f"{array.shape}; pad K with zeros, as engines do, and say so in the file"
        )
    if not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise TinymoeError(
            f"{name}: expected finite values, got {bad} NaN or infinite of {array.size} in shape "
            f"{array.shape}; no convention says what becomes of them, so find where they come from"
        )
    return array.reshape(*array.shape[:-1], -1, size)  # (..., K / size, size)

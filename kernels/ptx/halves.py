"""f16 and bf16 as 16-bit codes, to and from the floats they are computed with.

Sums and products of both are computed in f32 and rounded: f32 has more than twice the digits, so
the second rounding cannot see a false tie (Figueroa 1995). fma comes rounded to odd in f64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def from_f16(codes: Array) -> Array:
    """uint16 to f32, exact."""
    return codes.view("f2").astype("f4")


def to_f16(x: Array) -> Array:
    """f32 or f64 to uint16, to nearest even; NaN is 0x7fff."""
    codes = x.astype("f2").view("u2")
    lost = np.isnan(x)
    return np.where(lost, np.uint16(0x7FFF), codes) if lost.any() else codes


def from_bf16(codes: Array) -> Array:
    """uint16 to f32, exact."""
    return (codes.astype("u4") << np.uint32(16)).view("f4")


def odd_f32(x: Array) -> Array:
    """f64 to f32, rounded to odd."""
    y = x.astype("f4")
    back = y.astype("f8")
    y = np.where(np.abs(back) > np.abs(x), np.nextafter(y, np.float32(0)), y)
    inexact = (back != x) & ~np.isnan(x)
    return (y.view("u4") | inexact).astype("u4").view("f4")


def to_bf16(x: Array) -> Array:
    """f32 or f64 (exact or rounded to odd) to uint16, to nearest even; NaN is 0x7fff."""
    single = odd_f32(x) if x.dtype == np.float64 else x.astype("f4", copy=False)
    bits = single.view("u4")
    bits = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    codes = (bits >> np.uint32(16)).astype("u2")
    lost = np.isnan(single)
    return np.where(lost, np.uint16(0x7FFF), codes) if lost.any() else codes

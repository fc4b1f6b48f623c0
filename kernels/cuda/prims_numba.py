"""What order.cuh, prims.cuh and scoring.cuh hold, in Python for Numba-CUDA.

Two things differ from CUDA C. A literal such as 0.5 is a float64 here, and one of them makes a
whole expression so: constants are np.float32. And integers are signed and of 64 bits, so the order
of floats is made for signed numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda, float32, int64
from numba.cuda import libdevice

ALL = 0xFFFFFFFF
ONE, ZERO = np.float32(1), np.float32(0)
INF, NAN = np.float32(np.inf), np.float32(np.nan)
TAKEN = -(2**63)  # below every place
ORDER_OF_NAN = -(2**31)  # -inf is -0x7f800000 - 1 and above it

# Pasted into the kernel, as CUDA C's parts are: compiled apart, it would ask the GPU what it is.
inlined = cuda.jit(device=True, inline="always")


@inlined
def max_nan(a: Any, b: Any) -> Any:
    """The larger; NaN if one is."""
    if a != a:
        return a
    if b != b:
        return b
    return max(a, b)


@inlined
def warp_sum(x: Any) -> Any:
    """The sum over a warp, in all its lanes."""
    step = 16
    while step > 0:
        x += cuda.shfl_xor_sync(ALL, x, step)
        step >>= 1
    return x


@inlined
def warp_max(x: Any) -> Any:
    """The maximum over a warp; NaN if there is one. Integers as well as floats."""
    step = 16
    while step > 0:
        x = max_nan(x, cuda.shfl_xor_sync(ALL, x, step))
        step >>= 1
    return x


@inlined
def order_of(x: Any) -> Any:
    """A float's place among floats, as a signed number; NaN lowest, -0 with 0."""
    if x != x:
        return int64(ORDER_OF_NAN)
    bits = libdevice.float_as_int(x)
    if bits >= 0:
        return int64(bits)
    return -int64(bits & 0x7FFFFFFF)


@inlined
def value_of(order: Any) -> Any:
    """The float of an order."""
    if order == ORDER_OF_NAN:
        return NAN
    if order >= 0:
        return libdevice.int_as_float(order)
    return -libdevice.int_as_float(-order)


@inlined
def place_of(order: Any, index: Any) -> Any:
    """Order and index in one number; the lower index is the larger."""
    return (order << 32) | (int64(0xFFFFFFFF) - index)


@inlined
def index_at(place: Any) -> Any:
    """The index of a place."""
    return int64(0xFFFFFFFF) - (place & int64(0xFFFFFFFF))


@inlined
def sigmoid_of(x: Any) -> Any:
    """1 / (1 + e^-x), by the half that does not overflow."""
    power = math.exp(-abs(x))
    return (ONE if x >= ZERO else power) / (ONE + power)


@inlined
def score_of(kind: Any, x: Any, top: Any, total: Any) -> Any:
    """A score of a logit; 0 softmax, 1 sigmoid, 2 none."""
    if kind == 0:
        return math.exp(x - top) / total
    return sigmoid_of(x) if kind == 1 else float32(x)

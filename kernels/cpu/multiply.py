"""32 rows of a weight times any number of tokens: the one product that all of a model is made of.

For few tokens weights are decoded in registers as they come from memory. For many they are decoded
once, 128 columns at a time, into a few kilobytes that stay in the nearest cache, and every token
is multiplied there. Both are the same chain of sums: see `tiles.py`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import njit

from tinymoe.kernels.cpu.kernel import Kernel, helper
from tinymoe.kernels.cpu.simd import splat, store
from tinymoe.kernels.cpu.tiles import FORMATS, UNPACKED, times, unpack

DEEP = 128  # columns that are unpacked at a time: 16 KB, half of a nearest cache
SCRATCH = DEEP * 32 * 4  # bytes

# (tokens, tiles) at once: up to 12 of the 16 registers that AVX2 has are sums
_SIX, _FOUR = (times(UNPACKED, tokens, 1) for tokens in (6, 4))
_THREE, _TWO, _ONE = (times(UNPACKED, tokens, 2) for tokens in (3, 2, 1))


@njit(inline="always")
def _unpacked(rows, skip, count, tokens, sums, scratch):
    """Every token times `count` unpacked columns of both tiles."""
    t = 0
    while t + 6 <= tokens:
        _SIX(scratch, rows + 8 * t, skip, count, sums + 128 * t)
        _SIX(scratch + 64, rows + 8 * t, skip, count, sums + 128 * t + 64)
        t += 6
    if t + 4 == tokens:
        _FOUR(scratch, rows + 8 * t, skip, count, sums + 128 * t)
        _FOUR(scratch + 64, rows + 8 * t, skip, count, sums + 128 * t + 64)
        t += 4
    if t + 3 <= tokens:
        _THREE(scratch, rows + 8 * t, skip, count, sums + 128 * t)
        t += 3
    if t + 2 <= tokens:
        _TWO(scratch, rows + 8 * t, skip, count, sums + 128 * t)
    elif t < tokens:
        _ONE(scratch, rows + 8 * t, skip, count, sums + 128 * t)


@cache
def multiply(name: str) -> Kernel:
    """`f(weight, columns, rows, tokens, sums, scratch)` of a format.

    weight: address of a pair of tiles. rows: address of `tokens` addresses of x, each of `columns`
    float32. sums: (tokens, 32) float32, written. scratch: `SCRATCH` bytes of this thread's own.
    """
    form = FORMATS[name]
    one, two, opened = times(form, 1, 2), times(form, 2, 2), unpack(form)
    piece = DEEP // form.block * form.block_bytes

    def product(weight: Any, columns: Any, rows: Any, tokens: Any, sums: Any, scratch: Any) -> None:
        for t in range(tokens):
            store(sums + 128 * t, splat(0.0))
            store(sums + 128 * t + 64, splat(0.0))
        if tokens == 1:
            one(weight, rows, 0, columns, sums)
        elif tokens == 2:
            two(weight, rows, 0, columns, sums)
        else:
            for done in range(0, columns, DEEP):
                count = min(DEEP, columns - done)
                opened(weight + done // DEEP * piece, count, scratch)
                _unpacked(rows, 4 * done, count, tokens, sums, scratch)

    product.__name__ = f"multiply_{name}"
    return helper(product)

"""32 rows of a weight times any number of tokens: the one product that all of a model is made of.

For few tokens weights are decoded in registers as they come from memory. For many they are decoded
once, 128 columns at a time, into a few kilobytes that stay in the nearest cache, and every token
is multiplied there. Both have the same order of sums: see `tiles.py`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import njit

from tinymoe.kernels.cpu.kernel import Kernel, helper
from tinymoe.kernels.cpu.simd import splat, store
from tinymoe.kernels.cpu.tiles import FORMATS, Format, times, unpack, unpacked

DEEP = 128  # columns that are unpacked at a time: 16 KB, half of a nearest cache
SCRATCH = DEEP * 32 * 4 + DEEP // 16 * 128  # bytes; scales, too


@cache
def multiply(name: str) -> Kernel:
    """`f(weight, columns, rows, tokens, sums, scratch)` of a format.

    weight: address of a pair of tiles. rows: address of `tokens` addresses of x, each of `columns`
    float32. sums: (tokens, 32) float32, written. scratch: `SCRATCH` bytes of this thread's own.
    """
    form = FORMATS[name]
    one, two, opened = times(form, 1, 2), times(form, 2, 2), unpack(form)
    many = _many(unpacked(form))
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
                many(rows, 4 * done, count, tokens, sums, scratch)

    product.__name__ = f"multiply_{name}"
    return helper(product)


def _many(form: Format) -> Any:
    """`f(rows, skip, count, tokens, sums, scratch)`: every token times `count` unpacked columns."""
    # (tokens, tiles) at once: up to 12 of the 16 registers that AVX2 has are sums
    six, four = (times(form, tokens, 1) for tokens in (6, 4))
    three, two, one = (times(form, tokens, 2) for tokens in (3, 2, 1))

    @njit(inline="always")
    def many(rows, skip, count, tokens, sums, scratch):
        t = 0
        while t + 6 <= tokens:
            six(scratch, rows + 8 * t, skip, count, sums + 128 * t)
            six(scratch + 64, rows + 8 * t, skip, count, sums + 128 * t + 64)
            t += 6
        if t + 4 == tokens:
            four(scratch, rows + 8 * t, skip, count, sums + 128 * t)
            four(scratch + 64, rows + 8 * t, skip, count, sums + 128 * t + 64)
            t += 4
        if t + 3 <= tokens:
            three(scratch, rows + 8 * t, skip, count, sums + 128 * t)
            t += 3
        if t + 2 <= tokens:
            two(scratch, rows + 8 * t, skip, count, sums + 128 * t)
        elif t < tokens:
            one(scratch, rows + 8 * t, skip, count, sums + 128 * t)

    return many

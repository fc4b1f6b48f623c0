"""FP8 as each convention makes it: `formats/fp8.py`. Maxima, then scales, then codes.

A scale may be of a tensor, of rows, of 128 x 128 or of 1 x 128 values. Largest magnitudes are found
for 128 values of a row each; of which several share a scale, the caller takes the largest.
"""

from __future__ import annotations

from typing import Any

from tinymoe.kernels.cpu.batch import share
from tinymoe.kernels.cpu.codes import (
    e4m3_bytes,
    i32_at,
    largest_i32,
    least_i32,
    most_i32,
    put_bytes,
    put_i32,
    rounded,
    two_to,
)
from tinymoe.kernels.cpu.kernel import arguments, kernel, part
from tinymoe.kernels.cpu.rows import piece
from tinymoe.kernels.cpu.simd import (
    absolute,
    bits,
    f32_at,
    f64_of,
    load,
    load_i32,
    most,
    pick,
    put_i64,
    right,
    splat,
    splat_i32,
    store,
)

SIDE = 128  # values of a row that have one maximum
PLAIN, FLOORED, RECIPROCALS, FAKE = range(4)
TIMES_448TH = 4  # added: amax * (1/448) in place of amax / 448
# scale rule -> (steps, least amax, least scale)
SCALES = {
    "amax/448": (PLAIN, 0.0, 0.0),
    "rd(amax/448)": (PLAIN, 0.0, 0.0),
    "rd(amax/448) or eps": (PLAIN, 0.0, 0.0),
    "max(amax,1e-4)/448": (PLAIN, 1e-4, 0.0),
    "max(amax/448,1/(448*512))": (PLAIN, 0.0, 1 / (448 * 512)),
    "max(amax,1e-10)*(1/448)": (TIMES_448TH, 1e-10, 0.0),
    "1/((1/amax)*448)": (RECIPROCALS, 0.0, 0.0),
    "1/(448/amax)": (FAKE, 0.0, 0.0),
}
DIVIDE, MULTIPLY, BY_AMAX = range(3)  # x / s, x * (1/s), x * what the scale was made of
NO, UP_BY_BITS, UP_BY_LOG2 = range(3)


@kernel("x rows columns stride maxima pieces source bad")
def maxima_fp8(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """x (N, K) -> largest |x| of each 128 values of a row, (N, pieces) float32.

    `bad` becomes 1 if x is not finite, or, of a BF16 `source`, if it has other values.
    """
    x, rows, columns, stride, maxima, pieces, source, bad = arguments(args, 8)
    first, last = share(rows * pieces, thread, threads)
    for item in range(first, last):
        row, begin = item // pieces, item % pieces * SIDE
        loud, low = splat_i32(0), splat_i32(0)
        for k in range(begin, min(begin + SIDE, columns), 16):
            v = piece(x + 4 * (row * stride + k), columns - k)
            loud = most_i32(loud, bits(absolute(v)))
            low = low | (bits(v) & splat_i32(0xFFFF))
        largest = largest_i32(loud)
        # as whole numbers infinity is above every number, and NaN above infinity
        if largest >= 0x7F800000 or (source and largest_i32(low) > 0):
            put_i64(bad, 1)
        put_i32(maxima + 4 * item, largest)


@part
def _up(s, how, misses, place):
    """A scale to the power of two above it, if it is to be one. `place`: 64 bytes."""
    if how == UP_BY_BITS:
        byte = right(bits(s) + splat_i32(0x7FFFFF), 23)
        store(place, two_to(least_i32(most_i32(byte, splat_i32(1)), splat_i32(254))))
    elif how == UP_BY_LOG2:
        store(place, s)
        for lane in range(16):
            one = i32_at(place + 4 * lane)
            high, low = one >> 23, one & 0x7FFFFF
            put_i32(place + 4 * lane, high + (low > i32_at(misses + 4 * high)))
        store(place, two_to(load_i32(place)))
    else:
        store(place, s)


@kernel("maxima count steps floor least source eps up misses element scales factors")
def scales_fp8(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Maxima to scales, and to what elements are divided by or multiplied with: 16 at a time.

    floor: of amax; least: of scales; eps: in place of a zero scale; source: scales are rounded to
    BF16. `count` is a multiple of 16.
    """
    (maxima, count, steps, floor, lowest, source, eps, up, misses, element, scales, factors) = (
        arguments(args, 12)
    )
    first, last = share(count // 16, thread, threads)
    for k in range(64 * first, 64 * last, 64):
        amax, one, top = most(load(maxima + k), splat(f64_of(floor))), splat(1.0), splat(448.0)
        made = one  # of which the scale is made
        if steps == RECIPROCALS:  # where amax is 0: 1
            made = pick(splat(0.0), amax, (one / amax) * top, one)
            s = one / made
        elif steps == FAKE:
            made = pick(splat(2.0**-24), amax, top / amax, one)
            s = one / made
        elif steps == TIMES_448TH:
            s = amax * (one / top)
        else:
            s = rounded(amax / top, source)
        s = most(s, splat(f64_of(lowest)))
        s = pick(splat(0.0), s, s, splat(f64_of(eps)))
        _up(s, up, misses, scales + k)
        s = load(scales + k)
        if element == BY_AMAX:
            store(factors + k, made)
        elif element == MULTIPLY:
            store(factors + k, one / s)
        else:
            store(factors + k, s)


@kernel(
    "x rows columns stride factors factor_rows factor_columns factor_stride element source codes "
    "code_stride"
)
def quantise_fp8(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """x (N, K) -> codes (N, code_stride), E4M3, saturating; what lies behind K is not meant.

    factors: one for each `factor_rows` x `factor_columns` values, the latter multiples of 16 or K.
    source: quotients are rounded to BF16 first.
    """
    (x, rows, columns, stride, factors, high, wide, factor_stride, element, source, codes,
     code_stride) = arguments(args, 12)  # fmt: skip
    first, last = share(rows, thread, threads)
    for row in range(first, last):
        for k in range(0, columns, 16):
            v = piece(x + 4 * (row * stride + k), columns - k)
            place = row // high * factor_stride + k // wide
            factor = splat(f32_at(factors + 4 * place))
            v = v / factor if element == DIVIDE else v * factor
            put_bytes(codes + row * code_stride + k, e4m3_bytes(rounded(v, source)))

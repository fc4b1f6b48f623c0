"""MXFP4 as each convention makes it: `formats/mxfp4.py`, 16 blocks at a time.

The format is one, the exponent of a block is not. By the bits of the largest magnitude, but for
the rule of two libraries that take a logarithm: `codes.log2_misses`.
"""

from __future__ import annotations

from typing import Any

from tinymoe.kernels.cpu.batch import own, share
from tinymoe.kernels.cpu.codes import (
    choose,
    e2m1,
    i32_at,
    least_i32,
    most_i32,
    put_bytes,
    put_i32,
    put_nibbles,
    store_i32,
    two_to,
)
from tinymoe.kernels.cpu.kernel import arguments, kernel, part
from tinymoe.kernels.cpu.quantise_nvfp4 import AMAX, BYTES, FACTOR, SIXTH, loudest
from tinymoe.kernels.cpu.simd import (
    as_f32,
    bits,
    f32_at,
    f64_of,
    load,
    load_i32,
    most,
    put_i64,
    right,
    splat,
    splat_i32,
    store,
)

FLOOR, EVEN, CEIL, RCEIL, RCEIL_RCP, FLOOR6, RCEIL_LOG2 = range(7)
EXPONENTS = {
    "floor": FLOOR,
    "even": EVEN,
    "ceil": CEIL,
    "rceil": RCEIL,
    "rceil_rcp": RCEIL_RCP,
    "floor6": FLOOR6,
    "rceil_log2": RCEIL_LOG2,
}
DIVIDE, DIVIDE_NORMAL, MULTIPLY, ONE_AT_0, ZERO_AT_0 = range(5)
SCALINGS = {
    "divide": DIVIDE,
    "divide_normal": DIVIDE_NORMAL,
    "multiply": MULTIPLY,
    "multiply_one_at_0": ONE_AT_0,
    "multiply_zero_at_0": ZERO_AT_0,
}
# compressed-tensors' rounding overflows from here on, and its cast makes 127 of that
CT_OVERFLOW = 1.75 * 2.0**127
NEVER = float("inf")


@part
def scale_mxfp4(mine, exponent, scaling, floor, lowest, overflow, misses):
    """Maxima of 16 blocks at `mine` to their bytes and to what elements are scaled by.

    floor: of amax (DeepGEMM). lowest: byte. overflow: the amax from which on the byte is 127.
    """
    amax = most(load(mine + AMAX), splat(floor))
    word = bits(amax)
    if exponent == FLOOR:
        byte = right(word, 23) - splat_i32(2)
    elif exponent == EVEN:
        byte = right(word + splat_i32(1 << 21), 23) - splat_i32(2)
    elif exponent == CEIL:
        byte = right(word + splat_i32(0x7FFFFF), 23) - splat_i32(2)
    else:
        sixth = amax * splat(SIXTH) if exponent == RCEIL_RCP else amax / splat(6.0)
        if exponent == FLOOR6:
            byte = right(bits(sixth), 23)
        elif exponent == RCEIL_LOG2:
            store(mine + FACTOR, sixth)
            for lane in range(16):
                one = i32_at(mine + FACTOR + 4 * lane)
                high, low = one >> 23, one & 0x7FFFFF
                put_i32(mine + BYTES + 4 * lane, high + (low > i32_at(misses + 4 * high)))
            byte = load_i32(mine + BYTES)
        else:
            byte = right(bits(sixth) + splat_i32(0x7FFFFF), 23)
    byte = least_i32(most_i32(byte, splat_i32(lowest)), splat_i32(254))
    byte = choose(amax, splat(overflow), byte, splat_i32(127))
    power = two_to(byte)
    if scaling == DIVIDE_NORMAL:
        power = most(power, splat(2.0**-126))
    elif scaling >= MULTIPLY:
        power = splat(1.0) / power
        if scaling > MULTIPLY:  # at byte 0
            other = splat_i32(0x3F800000 if scaling == ONE_AT_0 else 0)
            above = choose(two_to(byte), splat(2.0**-126), other, bits(power))
            power = as_f32(above)
    store_i32(mine + BYTES, byte)
    store(mine + FACTOR, power)


@kernel(
    "x rows columns exponent scaling floor lowest overflow misses bounds signs nans codes scales "
    "scale_stride bad"
)
def quantise_mxfp4(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """x (N, K) -> codes (N, K/2), scale bytes (N, scale_stride).

    `scale_stride`: K/32 up to whole sixteens. `bad` becomes 1 if x is not finite. Threads share
    pieces of 16 blocks.
    """
    (x, rows, columns, exponent, scaling, floor, lowest, overflow, misses, bounds, signs, nans,
     codes, scales, scale_stride, bad) = arguments(args, 16)  # fmt: skip
    mine, blocks, pieces = own(batch, thread), columns // 32, scale_stride // 16
    first, last = share(rows * pieces, thread, threads)
    for item in range(first, last):
        row, begin = item // pieces, item % pieces * 16
        count = min(16, blocks - begin)
        start = x + 4 * (row * columns + 32 * begin)
        if not loudest(start, columns, 1, mine, count, 32):
            put_i64(bad, 1)
        scale_mxfp4(mine, exponent, scaling, f64_of(floor), lowest, f64_of(overflow), misses)
        put_bytes(scales + row * scale_stride + begin, load_i32(mine + BYTES))
        to = codes + row * (columns // 2) + 16 * begin
        for half in range(2 * count):
            v, factor = load(start + 64 * half), splat(f32_at(mine + FACTOR + half // 2 * 4))
            v = v / factor if scaling <= DIVIDE_NORMAL else v * factor
            put_nibbles(to + 8 * half, e2m1(v, bounds, signs, nans))

"""Codes and scales to values, in the products' order that each convention has."""

from __future__ import annotations

from typing import Any

from tinymoe.kernels.cpu.batch import own, share
from tinymoe.kernels.cpu.codes import LARGEST, choose, e4m3_value, nibbles_at, two_to
from tinymoe.kernels.cpu.kernel import arguments, kernel
from tinymoe.kernels.cpu.lazily import njit
from tinymoe.kernels.cpu.rows import put_piece
from tinymoe.kernels.cpu.simd import (
    as_f32,
    f32_at,
    f64_of,
    left,
    load_u8,
    pick,
    right,
    splat,
    splat_i32,
    store,
)

PRODUCT, QUOTIENT, RECIPROCAL, AMAX, NONE = range(5)
ASSOCIATIONS = {
    "product": PRODUCT,
    "quotient": QUOTIENT,
    "reciprocal": RECIPROCAL,
    "amax": AMAX,
    "none": NONE,
}
NAN, INF, SHIFT, LDEXP = range(4)
READINGS = {"nan": NAN, "inf": INF, "shift": SHIFT, "ldexp": LDEXP}


@njit(inline="always")
def e2m1_value(code):
    """16 codes to float32: exponent and fraction put into place; below 1 that is code / 2."""
    size = code & splat_i32(7)
    normal = left(size + splat_i32((127 - 1) << 1), 22)  # bias 1 becomes bias 127
    low = (splat_i32(0) - size) & splat_i32(0x3F000000)  # codes 0 and 1: 0 and 0.5
    value = choose(as_f32(normal), splat(1.0), low, normal)
    return as_f32(value | left(right(code, 3), 31))


@njit(inline="always")
def _step(scale, g, association):
    """Block scale and tensor scale together, each operation rounded once."""
    if association == PRODUCT:
        scale = scale * g
    elif association == QUOTIENT:
        scale = scale / g
    elif association == RECIPROCAL:
        scale = scale * (splat(1.0) / g)
    elif association == AMAX:
        scale = (scale * g) * (splat(1.0) / splat(2688.0))
    return scale


@kernel("codes rows columns scales scale_stride tensor_scale association out")
def dequantise_nvfp4(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """codes (N, K/2), scale bytes (N, scale_stride) -> (N, K): E2M1 times the two scales' product.

    `scale_stride`: K/16 up to whole sixteens. Threads share pieces of 16 blocks.
    """
    codes, rows, columns, scales, scale_stride, g, association, out = arguments(args, 8)
    mine, blocks, pieces = own(batch, thread), columns // 16, scale_stride // 16
    first, last = share(rows * pieces, thread, threads)
    for item in range(first, last):
        row, begin = item // pieces, item % pieces * 16
        scale = e4m3_value(load_u8(scales + row * scale_stride + begin))
        store(mine, _step(scale, splat(f64_of(g)), association))
        for block in range(min(16, blocks - begin)):
            place = row * columns + 16 * (begin + block)
            value = e2m1_value(nibbles_at(codes + place // 2))
            store(out + 4 * place, value * splat(f32_at(mine + 4 * block)))


@kernel("codes rows columns scales scale_stride reading out")
def dequantise_mxfp4(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """codes (N, K/2), scale bytes (N, scale_stride) -> (N, K): E2M1 times 2^(byte - 127).

    By half of that power, then doubled: byte 255 is 2^128 to some, which is no float32, and half
    of it times 0.5 is one.
    """
    codes, rows, columns, scales, scale_stride, reading, out = arguments(args, 7)
    mine, blocks, pieces = own(batch, thread), columns // 32, scale_stride // 16
    first, last = share(rows * pieces, thread, threads)
    for item in range(first, last):
        row, begin = item // pieces, item % pieces * 16
        power = two_to(load_u8(scales + row * scale_stride + begin))  # infinity at 255
        half = power * splat(0.5)
        if reading == SHIFT:
            half = pick(power, splat(2.0**-126), splat(0.0), half)
        elif reading == LDEXP:
            half = pick(splat(LARGEST), power, splat(2.0**127), half)
        elif reading == NAN:
            half = pick(splat(LARGEST), power, splat(float("nan")), half)
        store(mine, half)
        for part in range(2 * min(16, blocks - begin)):
            place = row * columns + 32 * begin + 16 * part
            value = e2m1_value(nibbles_at(codes + place // 2))
            value = value * splat(f32_at(mine + 4 * (part // 2)))
            store(out + 4 * place, value + value)


@kernel("codes code_stride rows columns scales high wide scale_stride out")
def dequantise_fp8(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """codes (N, code_stride) E4M3, scales float32 of `high` x `wide` values -> (N, K)."""
    codes, code_stride, rows, columns, scales, high, wide, scale_stride, out = arguments(args, 9)
    first, last = share(rows, thread, threads)
    for row in range(first, last):
        for begin in range(0, columns, wide):
            place = row // high * scale_stride + begin // wide
            scale, end = splat(f32_at(scales + 4 * place)), min(begin + wide, columns)
            for k in range(begin, end, 16):
                v = e4m3_value(load_u8(codes + row * code_stride + k)) * scale
                put_piece(out + 4 * (row * columns + k), v, end - k)

"""Activations in four bits, laid out for `w4a4.py`: twice each code, and the scales of blocks.

Rows as `whole.py` says, of one digit: bytes, though one code is four bits, as rows of x are read
many times, once for every 32 rows of the weight, and are small beside it.
"""

from __future__ import annotations

from typing import Any

from tinymoe.kernels.cpu.batch import TOKENS, own, share, word
from tinymoe.kernels.cpu.codes import (
    e2m1,
    e4m3_value,
    nibbles_at,
    put_i32,
    put_pairs,
    sum_i32,
    two_to,
)
from tinymoe.kernels.cpu.dequantise import e2m1_value
from tinymoe.kernels.cpu.integers import LIFT, twice
from tinymoe.kernels.cpu.kernel import arguments, inlined, kernel
from tinymoe.kernels.cpu.quantise_mxfp4 import EVEN, NEVER, ZERO_AT_0, scale_mxfp4
from tinymoe.kernels.cpu.quantise_nvfp4 import BYTES, FACTOR, KERNEL, loudest, scale_nvfp4
from tinymoe.kernels.cpu.simd import (
    f32_at,
    i64_at,
    load,
    load_i32,
    load_u8,
    put_f32,
    splat,
    store,
    whole,
)
from tinymoe.kernels.cpu.whole import Rows

LINE = 64  # bytes; rows begin one line more than they need apart: see `buffers.stride_of`
CODES = {block: Rows(digits=1, term=block) for block in (16, 32)}  # of NVFP4 and MXFP4
DIGITS = CODES[16].digit_bytes  # of 16 columns


def row_bytes(columns: int, block: int) -> int:
    """From one row to the next."""
    return (-(-CODES[block].bytes_of(columns) // LINE) + 1) * LINE


@inlined
def put_twice(to, code):
    """Twice the values of codes 0 .. 15, as digits; gives -LIFT times their sum."""
    values = whole(e2m1_value(code) * splat(2.0))
    put_pairs(to, values)
    return -LIFT * sum_i32(values)


@kernel("codes rows columns block scales scale_stride out out_bytes")
def coded_rows(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """codes (N, K/2), scale bytes (N, scale_stride) -> rows of `out_bytes` bytes.

    block: 16, scales are E4M3, or 32, E8M0. `scale_stride`: blocks up to whole sixteens.
    """
    codes, rows, columns, block, scales, scale_stride, out, out_bytes = arguments(args, 8)
    mine, blocks = own(batch, thread), columns // block
    first, last = share(rows, thread, threads)
    for row in range(first, last):
        from_, to = codes + row * (columns // 2), out + row * out_bytes
        terms = to + columns // 16 * DIGITS
        for begin in range(0, blocks, 16):
            byte = load_u8(scales + row * scale_stride + begin)
            store(mine, e4m3_value(byte) if block == 16 else two_to(byte))
            for b in range(min(16, blocks - begin)):
                lift = 0
                for _ in range(0, block, 16):
                    lift += put_twice(to, nibbles_at(from_))
                    from_, to = from_ + 8, to + DIGITS
                put_i32(terms, twice(lift))
                put_f32(terms + 4, f32_at(mine + 4 * b))
                terms += 8


@kernel("x x_stride columns block per_token shared ids divisors bounds signs nans out out_bytes")
def quantised_rows(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Rows of x, float32, on their way into a product of codes: `per_token` rows of each token.

    block 16: NVFP4 as "kernel" makes it, under divisors[expert], or the one there is; ids: the
    expert of each row, 0 for one divisor. block 32: MXFP4 as "vllm" does. Row i of out is made of
    row i // shared of x. Beside what is not finite scales are NaN, and so is the row's product: an
    engine's kernel writes a number.
    """
    (x, x_stride, columns, block, per_token, shared, ids, divisors, bounds, signs, nans, out,
     out_bytes) = arguments(args, 13)  # fmt: skip
    mine, blocks, nan = own(batch, thread), columns // block, splat(float("nan"))
    pieces = (blocks + 15) // 16
    first, last = share(word(batch, TOKENS) * per_token * pieces, thread, threads)
    for item in range(first, last):
        row, begin = item // pieces, item % pieces * 16
        count = min(16, blocks - begin)
        start = x + 4 * (row // shared * x_stride + begin * block)
        finite = loudest(start, 0, 1, mine, count, block)
        if block == 16:
            expert = i64_at(ids + 8 * row) if ids else 0
            scale_nvfp4(mine, f32_at(divisors + 4 * expert), KERNEL, 0)
            scale = e4m3_value(load_i32(mine + BYTES))
        else:
            scale_mxfp4(mine, EVEN, ZERO_AT_0, 0.0, 0, NEVER, 0)
            scale = two_to(load_i32(mine + BYTES))
        store(mine, scale if finite else nan)
        to = out + row * out_bytes
        terms = to + columns // 16 * DIGITS + 8 * begin
        to += begin * block // 16 * DIGITS
        for b in range(count):
            factor, lift = splat(f32_at(mine + FACTOR + 4 * b)), 0
            for k in range(0, block, 16):
                v = load(start + 4 * (b * block + k)) * factor
                lift += put_twice(to, e2m1(v, bounds, signs, nans))
                to += DIGITS
            put_i32(terms, twice(lift))
            put_f32(terms + 4, f32_at(mine + 4 * b))
            terms += 8

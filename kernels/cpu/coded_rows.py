"""Activations in four bits, laid out for `w4a4.py`: of each block its codes as bytes, its scale.

    16 (NVFP4) or 32 (MXFP4) bytes: twice the value, plus LIFT        then one float32: the scale

Bytes, though one code is four bits: rows of x are read many times, once for every 32 rows of the
weight, and are small beside it.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from tinymoe.kernels.cpu.batch import own, share
from tinymoe.kernels.cpu.codes import e4m3_value, nibbles_at, put_bytes, two_to
from tinymoe.kernels.cpu.dequantise import e2m1_value
from tinymoe.kernels.cpu.integers import LIFT
from tinymoe.kernels.cpu.kernel import arguments, kernel
from tinymoe.kernels.cpu.simd import f32_at, load_u8, put_f32, splat, store, whole

LINE = 64  # bytes; rows begin one line more than they need apart: see `buffers.stride_of`


def row_bytes(columns: int, block: int) -> int:
    """From one row to the next."""
    return (-(-(columns // block * (block + 4)) // LINE) + 1) * LINE


@njit(inline="always")
def lifted(code):
    """Codes 0 .. 15 to twice their values plus LIFT."""
    return whole(e2m1_value(code) * splat(2.0) + splat(LIFT))


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
        for begin in range(0, blocks, 16):
            byte = load_u8(scales + row * scale_stride + begin)
            store(mine, e4m3_value(byte) if block == 16 else two_to(byte))
            for b in range(min(16, blocks - begin)):
                for k in range(0, block, 16):
                    put_bytes(to + k, lifted(nibbles_at(from_ + k // 2)))
                put_f32(to + block, f32_at(mine + 4 * b))
                from_ += block // 2
                to += block + 4

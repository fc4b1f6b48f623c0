"""Rows of any width, 16 numbers at a time: the last piece of one may be shorter."""

from __future__ import annotations

from tinymoe.kernels.cpu.kernel import inlined
from tinymoe.kernels.cpu.simd import load, load_part, store, store_part, to_bf16


@inlined
def piece(address, left):
    """16 float32, or as many as are `left` of the row and then zeros."""
    return load(address) if left >= 16 else load_part(address, left)


@inlined
def put_piece(address, v, left):
    """Write 16 float32, or as many as are `left` of the row."""
    if left >= 16:
        store(address, v)
    else:
        store_part(address, v, left)


@inlined
def kept(v, rounding):
    """Rounded to storage: to BF16 if `rounding`."""
    if rounding:
        v = to_bf16(v)
    return v

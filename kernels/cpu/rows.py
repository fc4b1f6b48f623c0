"""Rows of any width, 16 numbers at a time: the last piece of one may be shorter."""

from __future__ import annotations

from numba import njit

from tinymoe.kernels.cpu.simd import load, load_part, store, store_part, to_bf16


@njit(inline="always")  # type: ignore[misc]
def piece(address, left):  # type: ignore[no-untyped-def]
    """16 float32, or as many as are `left` of the row and then zeros."""
    return load(address) if left >= 16 else load_part(address, left)


@njit(inline="always")  # type: ignore[misc]
def put_piece(address, v, left):  # type: ignore[no-untyped-def]
    """Write 16 float32, or as many as are `left` of the row."""
    if left >= 16:
        store(address, v)
    else:
        store_part(address, v, left)


@njit(inline="always")  # type: ignore[misc]
def kept(v, rounding):  # type: ignore[no-untyped-def]
    """Rounded to storage: to BF16 if `rounding`."""
    if rounding:
        v = to_bf16(v)
    return v

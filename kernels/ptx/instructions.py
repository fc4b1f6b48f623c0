"""Imports every module that adds instructions to the tables of `dispatch.py`."""

from __future__ import annotations

from tinymoe.kernels.ptx import (
    access,
    async_copy,
    atomics,
    barriers,
    bits,
    compare,
    convert,
    integers,
    ldmatrix,
    moves,
    tensor,
    warp,
)

MODULES = [
    *(access, async_copy, atomics, barriers, bits, compare, convert, integers),
    *(ldmatrix, moves, tensor, warp),
]

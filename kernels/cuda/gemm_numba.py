"""x (T, in) times weight (out, in) transposed, in Numba-CUDA: a plain form and a tiled one.

Plain functions; `cuda.jit(gemm_tiled)` makes one a kernel for a GPU, on which nobody has run them
yet. What they must equal: `linear` of tinymoe/model/precision.py, with float32 storage. Both add
up in the order of k, so they have the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, float32

TILE = 16  # a block is TILE x TILE threads and makes as many outputs
PADDED = TILE + 1
ZERO = np.float32(0)


def gemm(out: Any, x: Any, weight: Any) -> None:
    """One thread an output: each weight is read T times, each x `out` times."""
    column, row = cuda.grid(2)
    if row >= out.shape[0] or column >= out.shape[1]:
        return
    total = ZERO
    for k in range(x.shape[1]):
        total += x[row, k] * weight[column, k]
    out[row, column] = total


def gemm_tiled(out: Any, x: Any, weight: Any) -> None:
    """Through shared memory: a block reads each weight and each x once for TILE outputs.

    The extra column keeps the threads of a warp, which read down a column, in different banks.
    """
    x_tile = cuda.shared.array((TILE, PADDED), float32)
    w_tile = cuda.shared.array((TILE, PADDED), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    column, row = cuda.grid(2)
    mine = cuda.blockIdx.x * TILE + ty  # row of the weight that this thread fetches
    total, width = ZERO, x.shape[1]
    for begin in range(0, width, TILE):
        k = begin + tx
        x_tile[ty, tx] = x[row, k] if row < out.shape[0] and k < width else ZERO
        w_tile[ty, tx] = weight[mine, k] if mine < out.shape[1] and k < width else ZERO
        cuda.syncthreads()  # the tiles are complete
        for j in range(min(TILE, width - begin)):
            total += x_tile[ty, j] * w_tile[tx, j]
        cuda.syncthreads()  # and read by all, before the next ones replace them
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = total

"""combine.cu in Numba-CUDA, without atomics: the sum of each token's experts in the order of K.

A plain function; `cuda.jit(combine)` makes it a kernel for a GPU, on which nobody has run it yet.
What it must equal: `combine` of tinymoe/model/experts.py, with float32 storage.
"""

from __future__ import annotations

from typing import Any

from numba import cuda


def combine(out: Any, rows: Any, weights: Any) -> None:
    """out (T, H) of rows (T * K, H) in the order of slots, weights (T, K); one thread an output."""
    i, (top_k, width) = cuda.grid(1), (weights.shape[1], out.shape[1])
    t, h = i // width, i % width
    if t >= out.shape[0]:
        return
    total = weights[t, 0] * rows[t * top_k, h]
    for k in range(1, top_k):
        total += weights[t, k] * rows[t * top_k + k, h]
    out[t, h] = total

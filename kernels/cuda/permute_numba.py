"""permute.cu in Numba-CUDA: slots sorted by expert, stably, in three launches.

Plain functions; `cuda.jit(histogram)` makes one a kernel for a GPU, on which nobody has run them
yet. What they must equal: `permute` of tinymoe/model/experts.py.
"""

from __future__ import annotations

from typing import Any

from numba import cuda, int32

SLOTS = 256  # of a block: its threads
MOST_EXPERTS = 512  # static shared memory: an int for each


def histogram(counts: Any, ids: Any) -> None:
    """How often each expert is in a block's slots: counts (blocks, E) of ids (slots,)."""
    seen = cuda.shared.array(MOST_EXPERTS, int32)
    experts = counts.shape[1]
    for e in range(cuda.threadIdx.x, experts, cuda.blockDim.x):
        seen[e] = 0
    cuda.syncthreads()
    i = cuda.grid(1)
    if i < ids.size:
        cuda.atomic.add(seen, ids[i], int32(1))
    cuda.syncthreads()
    for e in range(cuda.threadIdx.x, experts, cuda.blockDim.x):
        counts[cuda.blockIdx.x, e] = seen[e]


def scan(offsets: Any, counts: Any) -> None:
    """counts (blocks, E) become starts, offsets (E + 1,); one block of at least E threads.

    Log E rounds over shared memory, each adding what lies 1, 2, 4, ... to the left.
    """
    sums = cuda.shared.array(MOST_EXPERTS, int32)
    e, (blocks, experts) = cuda.threadIdx.x, counts.shape
    total = int32(0)
    if e < experts:
        for b in range(blocks):
            total += counts[b, e]
        sums[e] = total
    cuda.syncthreads()
    step = 1
    while step < experts:
        left = int32(0)
        if step <= e < experts:
            left = sums[e - step]
        cuda.syncthreads()  # all have read, before anyone writes
        if step <= e < experts:
            sums[e] += left
        cuda.syncthreads()
        step *= 2
    if e < experts:
        start = sums[e] - total
        offsets[e] = start
        if e == experts - 1:
            offsets[experts] = sums[e]
        for b in range(blocks):
            count = counts[b, e]
            counts[b, e] = start
            start += count


def place(order: Any, ids: Any, starts: Any) -> None:
    """order (slots,) of ids (slots,) by starts (blocks, E); the warps of a block in turn."""
    free = cuda.shared.array(MOST_EXPERTS, int32)
    thread, i = cuda.threadIdx.x, cuda.grid(1)
    for e in range(thread, starts.shape[1], cuda.blockDim.x):
        free[e] = starts[cuda.blockIdx.x, e]
    mine = int32(-1)
    if i < ids.size:
        mine = int32(ids[i])
    peers = cuda.match_any_sync(0xFFFFFFFF, mine)  # a bit for each lane with my expert
    before = cuda.popc(peers & ((1 << cuda.laneid) - 1))
    cuda.syncthreads()
    for turn in range(cuda.blockDim.x // 32):
        if thread // 32 == turn:
            at = free[mine] + before if mine >= 0 else 0
            cuda.syncwarp()  # all have read, then one writes
            if mine >= 0:
                if before == 0:
                    free[mine] += cuda.popc(peers)
                order[at] = i
        cuda.syncthreads()

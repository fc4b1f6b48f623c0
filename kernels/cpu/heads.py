"""Small things between a projection and attention: a clip, and the way into pages."""

from __future__ import annotations

from typing import Any

from tinymoe.kernels.cpu.batch import (
    PAGE_SIZE,
    POSITIONS,
    RUN_OF,
    RUNS,
    TABLES,
    share_tokens,
    word,
)
from tinymoe.kernels.cpu.kernel import ALWAYS, arguments, inlined, kernel
from tinymoe.kernels.cpu.rows import piece, put_piece
from tinymoe.kernels.cpu.simd import f64_of, i64_at, pick, splat


@kernel("x x_stride width limit", by_token=ALWAYS)
def clip(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Hold the first `width` numbers of each token's row of x within +-limit, in place (OLMoE)."""
    x, x_stride, width, limit = arguments(args, 4)
    high, low = splat(f64_of(limit)), splat(-f64_of(limit))
    first, last = share_tokens(batch, thread, threads)
    for t in range(first, last):
        for k in range(0, width, 16):
            at = x + 4 * (t * x_stride + k)
            v = piece(at, width - k)
            v = pick(v, low, low, pick(high, v, high, v))  # NaN is neither below nor above
            put_piece(at, v, width - k)


@inlined
def slot_of(batch, group, t):
    """Where a token's key and value go in its pages: page * P + place."""
    run, position = i64_at(word(batch, RUN_OF) + 8 * t), i64_at(word(batch, POSITIONS) + 8 * t)
    table = i64_at(word(batch, TABLES) + 8 * (group * word(batch, RUNS) + run))
    size = word(batch, PAGE_SIZE)
    return i64_at(table + 8 * (position // size)) * size + position % size


@kernel("x x_stride x_head heads width pages position_stride head_stride group", by_token=ALWAYS)
def write_pages(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Each token's keys (or values) to its slot in the pages of a cache group.

    x: `heads` pieces of `width` numbers in each token's row. pages: position p of a page, head h
    at (page * P + p) * position_stride + h * head_stride. Strides in numbers.
    """
    (x, x_stride, x_head, heads, width, pages, position_stride, head_stride, group) = arguments(
        args, 9
    )
    first, last = share_tokens(batch, thread, threads)
    for item in range(first * heads, last * heads):
        t, head = item // heads, item % heads
        at = x + 4 * (t * x_stride + head * x_head)
        to = pages + 4 * (slot_of(batch, group, t) * position_stride + head * head_stride)
        for k in range(0, width, 16):
            put_piece(to + 4 * k, piece(at + 4 * k, width - k), width - k)

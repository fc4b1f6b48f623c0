"""Norms of a step: of whole rows, and of each head by itself. The definition: `model/norm.py`."""

from __future__ import annotations

from typing import Any

from tinymoe.kernels.cpu.batch import share_tokens
from tinymoe.kernels.cpu.kernel import ALWAYS, arguments, kernel, part
from tinymoe.kernels.cpu.rows import kept, piece, put_piece
from tinymoe.kernels.cpu.simd import f64_of, fma, splat, sqrt, total


@part
def norm_one(x, out, width, weight, eps, rounding, before):
    """`weight * x / sqrt(mean(x^2) + eps)` of `width` numbers; out may be x.

    Squares are summed 16 lanes apart, each lane left to right (fused), then `total`. `rounding`
    rounds the result to BF16; with `before` also x / rms before the product. weight 0: it is 1.
    """
    squares = splat(0.0)
    for k in range(0, width, 16):
        v = piece(x + 4 * k, width - k)
        squares = fma(v, v, squares)
    root = sqrt(splat(total(squares)) / splat(width) + splat(eps))
    for k in range(0, width, 16):
        v = kept(piece(x + 4 * k, width - k) / root, rounding & before)
        if weight:
            v = v * piece(weight + 4 * k, width - k)
        put_piece(out + 4 * k, kept(v, rounding), width - k)


@kernel(
    "x x_stride parts part_stride width weight weight_stride eps "
    "out out_stride out_part_stride rounding rounds_before_weight",
    by_token=ALWAYS,
)
def rmsnorm(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Each part of each row of x by itself: `weight * x / sqrt(mean(x^2) + eps)`, float32.

    A row has `parts` vectors of `width` numbers: one, or heads, `part_stride` apart. weight:
    (width,), or one for each part, `weight_stride` apart; None is 1. Strides in numbers. See
    `norm_one`.
    """
    (x, x_stride, parts, part_stride, width, weight, weight_stride, eps,
     out, out_stride, out_part_stride, rounding, before) = arguments(args, 13)  # fmt: skip
    first, last = share_tokens(batch, thread, threads)
    for item in range(first * parts, last * parts):
        i, number = item // parts, item % parts
        start = x + 4 * (i * x_stride + number * part_stride)
        to = out + 4 * (i * out_stride + number * out_part_stride)
        own = weight + 4 * number * weight_stride if weight else 0
        norm_one(start, to, width, own, f64_of(eps), rounding, before)

"""Rope of a step: heads turned by their token's position. The definition: `model/rope.py`."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu.batch import POSITIONS, share_tokens, word
from tinymoe.kernels.cpu.kernel import ALWAYS, arguments, kernel, part
from tinymoe.kernels.cpu.lazily import operation as _op
from tinymoe.kernels.cpu.rows import kept, piece, put_piece
from tinymoe.kernels.cpu.simd import F32, LANES, i64_at


def _lanes(order: list[int]) -> Any:
    """A vector's lanes in another order; 16 + i is lane i with the other sign."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), order)
    return lambda builder, x: builder.shuffle_vector(x, builder.fneg(x), mask)


neighbours = _op(F32, (F32,), _lanes([i ^ 1 for i in range(16)]), "Lanes 1 0 3 2 5 4 ...")
twice = _op(F32, (F32,), _lanes([i // 2 for i in range(16)]), "Lanes 0 0 1 1 2 2 ... 7 7.")
minus_first = _op(
    F32, (F32,), _lanes([i if i % 2 else 16 + i for i in range(16)]), "-x0 x1 -x2 x3 ..."
)


@part
def turn(x, out, position, turns, dim, rotary_dim, interleaved, rounding):
    """One head of a token at a position; out may be x.

    Each product and the sum round once, as in the definition: the same bits. Dimensions from
    rotary_dim to `dim` are copied.
    """
    half = rotary_dim // 2
    cosine, sine = i64_at(turns) + 4 * half * position, i64_at(turns + 8) + 4 * half * position
    if interleaved:  # pairs 2j, 2j + 1
        for k in range(0, rotary_dim, 16):
            v, left = piece(x + 4 * k, rotary_dim - k), half - k // 2
            c, s = twice(piece(cosine + 2 * k, left)), twice(piece(sine + 2 * k, left))
            turned = v * c + neighbours(v) * minus_first(s)
            put_piece(out + 4 * k, kept(turned, rounding), rotary_dim - k)
    else:  # pairs j, j + d/2
        for k in range(0, half, 16):
            left = half - k
            a, b = piece(x + 4 * k, left), piece(x + 4 * (half + k), left)
            c, s = piece(cosine + 4 * k, left), piece(sine + 4 * k, left)
            put_piece(out + 4 * k, kept(a * c - b * s, rounding), left)
            put_piece(out + 4 * (half + k), kept(b * c + a * s, rounding), left)
    for k in range(rotary_dim, dim, 16):
        put_piece(out + 4 * k, piece(x + 4 * k, dim - k), dim - k)


@kernel(
    "x x_stride x_head out out_stride out_head heads dim rotary_dim interleaved turns rounding",
    by_token=ALWAYS,
)
def rope(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Turn each head of each token's row of x; the result to `out`, which may be x.

    Heads lie `x_head` numbers apart (0: one that all heads of out share), rows `x_stride`.
    `turns`: two words, the addresses of cosines and sines (positions, rotary_dim / 2) float32,
    which may change from step to step. See `turn`.
    """
    (x, x_stride, x_head, out, out_stride, out_head, heads, dim, rotary_dim, interleaved, turns,
     rounding) = arguments(args, 12)  # fmt: skip
    first, last = share_tokens(batch, thread, threads)
    for item in range(first * heads, last * heads):
        t, head = item // heads, item % heads
        position = i64_at(word(batch, POSITIONS) + 8 * t)
        at = x + 4 * (t * x_stride + head * x_head)
        to = out + 4 * (t * out_stride + head * out_head)
        turn(at, to, position, turns, dim, rotary_dim, interleaved, rounding)

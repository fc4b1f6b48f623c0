"""Products of a step: a matrix times every token, and each expert times its own tokens."""

from __future__ import annotations

from typing import Any

from tinymoe.kernels.cpu.batch import TOKENS, own, share, share_tokens, word
from tinymoe.kernels.cpu.fixed_rows import FEW, put_block
from tinymoe.kernels.cpu.kernel import ALWAYS, arguments, call_helper, inlined, kernel, part
from tinymoe.kernels.cpu.maths import sigmoid, silu
from tinymoe.kernels.cpu.multiply import SCRATCH, multiply
from tinymoe.kernels.cpu.pack import Packed
from tinymoe.kernels.cpu.rows import kept
from tinymoe.kernels.cpu.simd import (
    f64_of,
    i64_at,
    least,
    load,
    most,
    prefetch,
    put_i64,
    splat,
    store,
)

PLAIN, SWIGLU, CLAMPED = 0, 1, 2  # what is made of a pair's sums
FIXED = 4  # with SWIGLU or CLAMPED: rows of out are in fixed point, `pairs` blocks of them
AT_ONCE = 128  # tokens whose sums a thread holds: 16 KB
OWN_WORDS = SCRATCH // 8 + AT_ONCE + AT_ONCE * 32 // 2  # of a thread's memory: unpacked columns,
# addresses of x, sums


@inlined
def _scaled(sums, scales, bias, place):
    """16 sums times their rows' scales, plus their biases; both lie in the order of the tiles."""
    v = load(sums)
    if scales:
        v = v * load(scales + 4 * place)
    if bias:
        v = v + load(bias + 4 * place)
    return v


@inlined
def _activated(gate, up, kind, limit, alpha):
    """silu(gate) * up, or gpt-oss's clamped form; see `model.experts.swiglu`."""
    if kind & SWIGLU:
        return silu(gate) * up
    gate = least(gate, splat(limit))
    up = most(least(up, splat(limit)), splat(-limit))
    return (up + splat(1.0)) * (gate * sigmoid(gate * splat(alpha)))


@inlined
def _gated(sums, scales, bias, pair, kind, limit, alpha, rounding):
    """A pair of gate and up rows, their sums made one: 16 activations, each step rounded."""
    gate = kept(_scaled(sums, scales, bias, 32 * pair), rounding)
    up = kept(_scaled(sums + 64, scales, bias, 32 * pair + 16), rounding)
    return kept(_activated(gate, up, kind, limit, alpha), rounding)


@inlined
def _put(v, to, pair, pairs, kind, both):
    """A pair's 16 activations: as float32, or as the next product takes them, see `fixed_rows`.

    both: the digits, for few tokens, and q.
    """
    if kind & FIXED:
        put_block(v, to, pairs, pair, both)
    else:
        store(to + 64 * pair, v)


@inlined
def _onto(v, residual, part, skip, factor, rounding):
    """The residual's 16 numbers `skip` bytes on, plus v times `factor`; v itself goes to `part`."""
    if part:
        store(part + skip, v)
    if factor != 1.0:
        v = kept(v * splat(factor), rounding)
    return kept(load(residual + skip) + v, rounding)


LINEAR = (
    "x x_stride count rows weight pair_bytes pairs columns scales bias out out_stride "
    "residual part factor kind rounding multiply"
)


@kernel(LINEAR)
def linear(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """out (R, N) = x (T, K) times weight (N, K), scaled, biased, rounded; or a whole gate-up.

    Threads share the weight's pairs. `count`, `rows`: words of the header that say how many rows
    of x there are, and where the list of them is (0: all of them in order). PLAIN with `residual`,
    rows like those of out: the result goes to `part` (or nowhere, if that is 0), and out is the
    residual's row plus the result times `factor`, each step rounded.
    """
    given = arguments(args, 7)
    first, last = share(given[6], thread, threads)
    _linear(args, batch, thread, 0, word(batch, given[2]), first, last)


@kernel(LINEAR, by_token=ALWAYS)
def linear_by_token(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """The same, for all of a step's tokens, which threads share.

    Who has none asks memory for a part of the matrix: one thread alone reads half as fast as two.
    """
    begin, end = share_tokens(batch, thread, threads)
    given = arguments(args, 7)
    if begin == end:
        first, last = share(given[5] * given[6] // 64, thread, threads)
        for line in range(first, last):
            prefetch(given[4] + 64 * line)
    _linear(args, batch, thread, begin, end, 0, given[6])


@part
def _linear(args, batch, thread, begin, end, first, last):
    """Rows begin .. end - 1 of those listed, times pairs first .. last - 1."""
    (x, x_stride, _, rows_word, weight, pair_bytes, pairs, columns, scales, bias,
     out, out_stride, residual, part, factor, kind, rounding,
     multiply_it) = arguments(args, 18)  # fmt: skip
    scratch = own(batch, thread)
    starts, sums = scratch + SCRATCH, scratch + SCRATCH + 8 * AT_ONCE
    rows = word(batch, rows_word) if rows_word else 0
    for done in range(begin, end, AT_ONCE):
        tokens = min(AT_ONCE, end - done)
        for t in range(tokens):
            row = i64_at(rows + 8 * (done + t)) if rows else done + t
            put_i64(starts + 8 * t, x + 4 * x_stride * row)
        for pair in range(first, last):
            at = weight + pair * pair_bytes
            call_helper(multiply_it, at, columns, starts, tokens, sums, scratch)
            for t in range(tokens):
                own_sums, to = sums + 128 * t, out + 4 * out_stride * (done + t)
                if kind == PLAIN:
                    for tile in range(2):
                        place = 32 * pair + 16 * tile
                        v = kept(_scaled(own_sums + 64 * tile, scales, bias, place), rounding)
                        if residual:
                            skip = to - out + 4 * place
                            v = _onto(v, residual, part, skip, f64_of(factor), rounding)
                        store(to + 4 * place, v)
                else:
                    v = _gated(own_sums, scales, bias, pair, kind, 0.0, 0.0, rounding)
                    _put(v, to, pair, pairs, kind, word(batch, TOKENS) > FEW)


@kernel(
    "x x_stride order offsets experts top_k weight pair_bytes pairs columns scales bias out "
    "out_stride kind limit alpha rounding multiply"
)
def experts(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Each expert times its own rows: slot s of `order` is written to row s of `out`.

    Threads share each expert's pairs. The rows of x are those of the slots' tokens, order[s] //
    top_k; with top_k 0 they are the slots themselves.
    """
    (x, x_stride, order, offsets, count, top_k, weight, pair_bytes, pairs, columns, scales, bias,
     out, out_stride, kind, limit, alpha, rounding, multiply_it) = arguments(args, 19)  # fmt: skip
    scratch = own(batch, thread)
    starts, sums = scratch + SCRATCH, scratch + SCRATCH + 8 * AT_ONCE
    turn, slots = 0, i64_at(offsets + 8 * count)
    for expert in range(count):
        begin, end = i64_at(offsets + 8 * expert), i64_at(offsets + 8 * expert + 8)
        their_scales = scales + 128 * pairs * expert if scales else 0
        their_bias = bias + 128 * pairs * expert if bias else 0
        for done in range(begin, end, AT_ONCE):
            tokens = min(AT_ONCE, end - done)
            for t in range(tokens):
                slot = i64_at(order + 8 * (done + t))
                row = slot // top_k if top_k else slot
                put_i64(starts + 8 * t, x + 4 * x_stride * row)
            # in one piece, so that memory is read forward; who gets the longer one changes
            mine = (thread + turn) % threads
            turn += 1
            first, last = share(pairs, mine, threads)
            for pair in range(first, last):
                at = weight + (expert * pairs + pair) * pair_bytes
                call_helper(multiply_it, at, columns, starts, tokens, sums, scratch)
                for t in range(tokens):
                    own_sums = sums + 128 * t
                    to = out + 4 * out_stride * i64_at(order + 8 * (done + t))
                    if kind == PLAIN:
                        for tile in range(2):
                            place = 32 * pair + 16 * tile
                            v = _scaled(own_sums + 64 * tile, their_scales, their_bias, place)
                            store(to + 4 * place, kept(v, rounding))
                    else:
                        v = _gated(
                            own_sums, their_scales, their_bias, pair, kind,
                            f64_of(limit), f64_of(alpha), rounding,
                        )  # fmt: skip
                        _put(v, to, pair, pairs, kind, slots > FEW)


def tiles_of(weight: Packed) -> dict[str, Any]:
    """The arguments of both kernels that say where a weight lies."""
    return {
        "weight": weight.data,
        "pair_bytes": weight.pair_bytes,
        "pairs": weight.pairs,
        "columns": weight.padded,
        "scales": weight.row_scales,
        "multiply": multiply(weight.form.name),
    }

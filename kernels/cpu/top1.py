"""The head of a greedy step: each row's largest logit, and no logits.

What greedy decoding takes of V logits is one id. So the head's product, as `linear` has it, keeps
the best of what passes by: of 16 lanes each, at the end of all. Of equal logits the lowest id is
taken, as in the sampler: a later one must be larger to win, and threads and lanes, which see ids
in another order, compare ids as well.

NaN and infinity are no logits: they win here (as infinity), and whoever sees that asks for the
logits, of which the sampler then says what is wrong.
"""

from __future__ import annotations

from typing import Any

from tinymoe.kernels.cpu.batch import LOGIT_ROWS, LOGITS, own, share, word
from tinymoe.kernels.cpu.codes import choose, largest_i32, store_i32
from tinymoe.kernels.cpu.kernel import arguments, call_helper, kernel, part
from tinymoe.kernels.cpu.linear import AT_ONCE, OWN_WORDS
from tinymoe.kernels.cpu.multiply import SCRATCH
from tinymoe.kernels.cpu.simd import (
    f32_at,
    f64_of,
    i64_at,
    largest,
    load,
    load_i32,
    pick,
    put_f32,
    put_i64,
    splat,
    splat_i32,
    store,
    whole,
)
from tinymoe.kernels.cpu.spans import lane

FOUND = 16  # bytes of one thread's answer for one row: a float32, then 8 further the id
WORDS = OWN_WORDS + AT_ONCE * 128 // 8  # of a thread's memory: 16 logits and 16 ids of each row
NOTHING = float("-inf")


@part
def _meet(v, place, best):
    """16 more logits, of ids from `place` on, against the best so far of each lane."""
    v = pick(v, splat(float("inf")), v, splat(float("inf")))  # NaN, too
    so_far, ids = load(best), load_i32(best + 64)
    store_i32(best + 64, choose(so_far, v, whole(lane() + splat(place)), ids))
    store(best, pick(so_far, v, v, so_far))


@part
def _best(best, to):
    """Of 16 lanes: the largest, and of its equals the lowest id."""
    values = load(best)
    top = largest(values)
    ids = choose(values, splat(top), splat_i32(2**31 - 1), load_i32(best + 64))
    put_f32(to, top)
    put_i64(to + 8, -largest_i32(splat_i32(0) - ids))


@kernel(
    "x x_stride weight pair_bytes pairs columns scales bias divisor vocabulary found room multiply"
)
def head(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """x (T, K) times the head (V, K), of the rows whose logits are wanted: each thread's best.

    Threads share pairs of tiles, as in `linear`. Logits are that product times `scales`, plus
    `bias`, over `divisor` (Granite), each step rounded. found: `room` answers of each thread.
    """
    (x, x_stride, weight, pair_bytes, pairs, columns, scales, bias, divisor_bits, vocabulary,
     found, room, multiply_it) = arguments(args, 13)  # fmt: skip
    divisor = f64_of(divisor_bits)
    scratch = own(batch, thread)
    starts, sums = scratch + SCRATCH, scratch + SCRATCH + 8 * AT_ONCE
    bests = scratch + 8 * OWN_WORDS
    count, rows = word(batch, LOGITS), word(batch, LOGIT_ROWS)
    first, last = share(pairs, thread, threads)
    for done in range(0, count, AT_ONCE):
        tokens = min(AT_ONCE, count - done)
        for t in range(tokens):
            put_i64(starts + 8 * t, x + 4 * x_stride * i64_at(rows + 8 * (done + t)))
            store(bests + 128 * t, splat(NOTHING))
            store_i32(bests + 128 * t + 64, splat_i32(2**31 - 1))
        for pair in range(first, last):
            at = weight + pair * pair_bytes
            call_helper(multiply_it, at, columns, starts, tokens, sums, scratch)
            for t in range(tokens):
                for tile in range(2):
                    place = 32 * pair + 16 * tile
                    v = load(sums + 128 * t + 64 * tile)
                    if scales:
                        v = v * load(scales + 4 * place)
                    if bias:
                        v = v + load(bias + 4 * place)
                    if divisor != 1.0:
                        v = v / splat(divisor)
                    if place + 16 > vocabulary:  # tiles are whole, the vocabulary need not be
                        there = lane() + splat(place)
                        v = pick(there, splat(vocabulary), v, splat(NOTHING))
                    _meet(v, place, bests + 128 * t)
        for t in range(tokens):
            _best(bests + 128 * t, found + FOUND * (thread * room + done + t))


@kernel("found room ids")
def choose_best(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """The threads' answers -> ids (R,) int64; -1 where the largest is not finite.

    Threads have ids in ascending order, so a later answer must be larger.
    """
    found, room, ids = arguments(args, 3)
    first, last = share(word(batch, LOGITS), thread, threads)
    for row in range(first, last):
        top, best = f32_at(found + FOUND * row), i64_at(found + FOUND * row + 8)
        for other in range(1, threads):
            at = found + FOUND * (other * room + row)
            if f32_at(at) > top:
                top, best = f32_at(at), i64_at(at + 8)
        put_i64(ids + 8 * row, best if NOTHING < top < float("inf") else -1)

"""The router's five steps on logits, and the sort of tokens by expert that follows.

Scalars, one token at a time: E is at most some hundred, and ids must be exact. The steps and
their rules are those of `model/router.py`; sums go by ascending id.
"""

from __future__ import annotations

from typing import Any

from tinymoe.kernels.cpu.batch import ALONE, TOKENS, own, share_tokens, word
from tinymoe.kernels.cpu.kernel import ALWAYS, arguments, inlined, kernel, part
from tinymoe.kernels.cpu.maths import exp, sigmoid
from tinymoe.kernels.cpu.rows import piece
from tinymoe.kernels.cpu.simd import (
    f32_at,
    f64_of,
    i64_at,
    load,
    put_f32,
    put_i64,
    splat,
    store,
)

SOFTMAX, SIGMOID, IDENTITY = 0, 1, 2
FROM_SCORE, SOFTMAX_OF_CHOSEN, SIGMOID_OF_CHOSEN = 0, 1, 2
MAX_OF_GROUP, TWO_OF_GROUP = 0, 1


def own_words(experts: int, top_k: int) -> int:
    """What routing needs of a thread's memory: choice, mark and rank of each expert, and so on."""
    return 4 * (experts + 64) + 4 * (top_k + 16)


@inlined
def _above(a, b):
    """a is chosen before b, its index being the higher one: NaN is below every number."""
    return (a > b) | ((b != b) & (a == a))


@part
def _softmax(logits, out, count):
    """The row's maximum off first; the sum by ascending index."""
    top = f32_at(logits)
    for e in range(1, count):
        value = f32_at(logits + 4 * e)
        if not (value <= top):  # so that a NaN, too, gets to all
            top = value
    for e in range(0, count, 16):
        store(out + 4 * e, exp(load(logits + 4 * e) - splat(top)))
    total = f32_at(out)
    for e in range(1, count):
        total += f32_at(out + 4 * e)
    for e in range(0, count, 16):
        store(out + 4 * e, load(out + 4 * e) / splat(total))


@part
def _best(values, marks, count):
    """The index of the largest that is not marked, the lowest of equals; -1 if all are."""
    best, most = -1, f32_at(values)
    for e in range(count):  # without a branch: nobody could guess which way it goes
        value, free = f32_at(values + 4 * e), i64_at(marks + 8 * e) == 0
        better = free & ((best < 0) | _above(value, most))
        best, most = (e, value) if better else (best, most)
    return best


@part
def _drop_groups(choice, experts, groups, kept, rule, masked, ratings, marks):
    """Experts of all but the `kept` best groups get `masked`; NaN stays (vllm#39288)."""
    size = experts // groups
    for g in range(groups):
        put_i64(marks + 8 * g, 0)
        first, second = f32_at(choice + 4 * g * size), -float("inf")
        for e in range(1, size):
            value = f32_at(choice + 4 * (g * size + e))
            if not (value <= first):
                first, second = value, first
            elif not (value <= second):
                second = value
        put_f32(ratings + 4 * g, first + second if rule == TWO_OF_GROUP else first)
    for _ in range(kept):
        put_i64(marks + 8 * _best(ratings, marks, groups), 1)
    for g in range(groups):
        if i64_at(marks + 8 * g) == 0:
            for e in range(g * size, (g + 1) * size):
                value = f32_at(choice + 4 * e)
                if value == value:
                    put_f32(choice + 4 * e, masked)


@part
def _by_weight(ids, weights, count):
    """Largest weight first, equal ones by ascending id, as which they come in."""
    for done in range(1, count):
        index, weight = i64_at(ids + 8 * done), f32_at(weights + 4 * done)
        place = done
        while place > 0 and _above(weight, f32_at(weights + 4 * place - 4)):
            put_i64(ids + 8 * place, i64_at(ids + 8 * place - 8))
            put_f32(weights + 4 * place, f32_at(weights + 4 * place - 4))
            place -= 1
        put_i64(ids + 8 * place, index)
        put_f32(weights + 4 * place, weight)


@part
def _sort(ids, count, experts, order, offsets):
    """Slots by expert, a stable counting sort: order (count,), offsets (E + 1,)."""
    for e in range(experts + 1):
        put_i64(offsets + 8 * e, 0)
    for slot in range(count):
        at = offsets + 8 * i64_at(ids + 8 * slot) + 8
        put_i64(at, i64_at(at) + 1)
    for e in range(experts):
        at = offsets + 8 * e
        put_i64(at + 8, i64_at(at) + i64_at(at + 8))
    for back in range(count):  # from the last slot down, each to its expert's last free place
        slot = count - 1 - back
        at = offsets + 8 * i64_at(ids + 8 * slot) + 8
        put_i64(at, i64_at(at) - 1)
        put_i64(order + 8 * i64_at(at), slot)
    for e in range(experts):  # each end went down to its beginning: move them back by one
        put_i64(offsets + 8 * e, i64_at(offsets + 8 * e + 8))
    put_i64(offsets + 8 * experts, count)


@kernel(
    "logits stride experts top_k bias score weight_from groups groups_kept group_score masked "
    "renormalise epsilon floor scale scores ids weights margins order offsets",
    by_token=ALWAYS,
)
def route(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """logits (T, E), bias (E,) or 0 -> ids, weights (T, K), scores (T, E), margins (T,).

    Rows of logits and scores are `stride` float32 apart. Up to ALONE tokens are sorted here, too.
    """
    (logits, stride, experts, top_k, bias, score, weight_from, groups, groups_kept, group_score,
     masked, renormalise, epsilon, floor, scale, scores, ids, weights, margins, order,
     offsets) = arguments(args, 21)  # fmt: skip
    tokens = word(batch, TOKENS)
    first, last = share_tokens(batch, thread, threads)
    choice = own(batch, thread)
    marks = choice + 4 * (experts + 64)
    ratings, group_marks = marks + 8 * (experts + 16), marks + 12 * (experts + 16)
    chosen = marks + 20 * (experts + 16)
    for t in range(first, last):
        raw, mine = logits + 4 * stride * t, scores + 4 * stride * t
        if score == SOFTMAX:
            _softmax(raw, mine, experts)
        else:
            for e in range(0, experts, 16):
                value = load(raw + 4 * e)
                store(mine + 4 * e, sigmoid(value) if score == SIGMOID else value)
        for e in range(0, experts, 16):
            value = load(mine + 4 * e)
            if bias:
                value = value + piece(bias + 4 * e, experts - e)
            store(choice + 4 * e, value)
        for e in range(experts):
            put_i64(marks + 8 * e, 0)
        if groups_kept < groups:
            _drop_groups(choice, experts, groups, groups_kept, group_score, f64_of(masked),
                         ratings, group_marks)  # fmt: skip
        edge = 0.0
        for _ in range(top_k):
            best = _best(choice, marks, experts)
            put_i64(marks + 8 * best, 1)
            edge = f32_at(choice + 4 * best)
        out = _best(choice, marks, experts)
        margin = edge - f32_at(choice + 4 * out) if out >= 0 else float("inf")
        put_f32(margins + 4 * t, margin)
        their_ids, their_weights = ids + 8 * top_k * t, weights + 4 * top_k * t
        k = 0
        for e in range(experts):  # the next place takes every one, until a chosen one stays there
            put_i64(chosen + 8 * k, e)
            k += i64_at(marks + 8 * e)
        for k in range(top_k):
            e = i64_at(chosen + 8 * k)
            put_i64(their_ids + 8 * k, e)
            put_f32(choice + 4 * k, f32_at((mine if weight_from == FROM_SCORE else raw) + 4 * e))
        if weight_from == SOFTMAX_OF_CHOSEN:
            _softmax(choice, choice, top_k)
        elif weight_from == SIGMOID_OF_CHOSEN:
            for e in range(0, top_k, 16):
                store(choice + 4 * e, sigmoid(load(choice + 4 * e)))
        total = f32_at(choice)
        for k in range(1, top_k):
            total += f32_at(choice + 4 * k)
        _weigh(choice, their_weights, top_k, total, renormalise, f64_of(epsilon), f64_of(floor),
               f64_of(scale))  # fmt: skip
        _by_weight(their_ids, their_weights, top_k)
    if tokens <= ALONE and thread == 0:
        _sort(ids, tokens * top_k, experts, order, offsets)


@part
def _weigh(raw, out, count, total, renormalise, epsilon, floor, scale):
    """Renorm and scale, each a rounding of its own: raw (K,) to out (K,)."""
    if epsilon != 0.0:
        put_f32(raw + 4 * count, total)
        total = f32_at(raw + 4 * count) + _as_f32(raw + 4 * count, epsilon)
    if floor != 0.0:
        least = _as_f32(raw + 4 * count, floor)
        if total < least:
            total = least
    factor = _as_f32(raw + 4 * count, scale)
    for k in range(count):
        value = f32_at(raw + 4 * k)
        if renormalise:
            value = value / total
        if scale != 1.0:
            value = value * factor
        put_f32(out + 4 * k, value)


@inlined
def _as_f32(place, value):
    """A float64 rounded to float32, by way of memory."""
    put_f32(place, value)
    return f32_at(place)


@kernel("ids experts top_k above order offsets", by_token=ALONE)
def permute(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """ids (T, K) -> order (T*K,), offsets (E + 1,), of more than `above` tokens.

    In a step that is ALONE: `route` has sorted so few.
    """
    ids, experts, top_k, above, order, offsets = arguments(args, 6)
    tokens = word(batch, TOKENS)
    if tokens > above and thread == 0:
        _sort(ids, tokens * top_k, experts, order, offsets)

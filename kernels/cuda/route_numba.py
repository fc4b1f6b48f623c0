"""Routing in Numba-CUDA: the steps of scores.cu, groups.cu, topk.cu and weights.cu in Python.

Plain functions; `cuda.jit(scores)` makes one a kernel for a GPU, on which nobody has run them yet.
What they must equal: tinymoe/model/router.py.

Where a warp works on a row, all its lanes go round the loop equally often, and those past the end
do nothing. With `range(lane, E, 32)` NVVM made two copies of a loop, one for the lanes that have
work, each with shuffles of its own: lanes that wait for each other in two places.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda, float32, int64

from tinymoe.kernels.cuda.prims_numba import (
    INF,
    ONE,
    TAKEN,
    ZERO,
    index_at,
    inlined,
    max_nan,
    order_of,
    place_of,
    score_of,
    value_of,
    warp_max,
    warp_sum,
)

MIXER_REACH = np.float32(0.02)  # twice Phi's router_jitter_noise


def scores(out: Any, logits: Any, kind: Any) -> None:
    """Logits (T, E) to scores (T, E); one warp a token. Kinds: see `score_of`."""
    t, lane = cuda.grid(1) // 32, cuda.laneid
    if t >= logits.shape[0]:
        return
    top, total = -INF, ZERO
    for first in range(0, logits.shape[1], 32):
        if first + lane < logits.shape[1]:
            top = max_nan(top, logits[t, first + lane])
    top = warp_max(top)
    for first in range(0, logits.shape[1], 32):
        if first + lane < logits.shape[1]:
            total += math.exp(logits[t, first + lane] - top)
    total = warp_sum(total)
    for e in range(lane, logits.shape[1], 32):  # no shuffle comes after this one
        out[t, e] = score_of(kind, logits[t, e], top, total)


def add_bias(out: Any, scores: Any, bias: Any) -> None:
    """Choice (T, E) = scores (T, E) + bias (E,); one thread a number."""
    i = cuda.grid(1)
    if i < scores.size:
        t, e = i // scores.shape[1], i % scores.shape[1]
        out[t, e] = scores[t, e] + bias[e]


@inlined
def rating_of(choice: Any, t: Any, group: Any, size: Any, top2: Any) -> Any:
    """A group's best member, or the sum of its two best; NaN if a member is."""
    first, second = -INF, -INF
    for e in range(group * size, (group + 1) * size):
        x = choice[t, e]
        second = max(second, min(first, x))
        first = max_nan(first, x)
    return first + second if top2 else first


def drop_groups(out: Any, choice: Any, groups: Any, kept: Any, top2: Any, to_zero: Any) -> None:
    """Mask the members of weak groups; one thread a group of a token."""
    i = cuda.grid(1)
    t, own, size = i // groups, i % groups, choice.shape[1] // groups
    if t >= choice.shape[0]:
        return
    mine = place_of(order_of(rating_of(choice, t, own, size, top2)), own)
    better = 0
    for g in range(groups):
        better += place_of(order_of(rating_of(choice, t, g, size, top2)), g) > mine
    for e in range(own * size, (own + 1) * size):
        x = choice[t, e]
        if better < kept or x != x:  # NaN stays (vllm#39288)
            out[t, e] = x
        else:
            out[t, e] = ZERO if to_zero else -INF


def topk(ids: Any, margin: Any, choice: Any) -> None:
    """The K best of each row, best first, and the margin; one warp a token, any E and K.

    The row is read again in each round: the next best is the best below the last.
    """
    t, lane = cuda.grid(1) // 32, cuda.laneid
    if t >= choice.shape[0]:
        return
    last, top_k, experts = int64(2**63 - 1), ids.shape[1], choice.shape[1]
    for k in range(top_k + 1):
        best = int64(TAKEN)
        for first in range(0, experts, 32):
            e = first + lane
            if e < experts:
                place = place_of(order_of(choice[t, e]), e)
                if place < last:
                    best = max(best, place)
        best = warp_max(best)
        if lane == 0:
            if k < top_k:
                ids[t, k] = index_at(best)
            elif top_k < experts:
                margin[t] = value_of(last >> 32) - value_of(best >> 32)
            else:
                margin[t] = INF
        last = best


@inlined
def mixed(logits: Any, t: Any, top: Any, without: Any) -> Any:
    """The sparse mixer's weight of a logit; `without`: an expert that is out of its way, or -1."""
    total = ZERO
    for e in range(logits.shape[1]):
        x = logits[t, e]
        far = (top - x) / max(abs(x), top) > MIXER_REACH
        if e != without and not far:
            total += math.exp(x - top)
    return ONE / total


@inlined
def gather(weights: Any, ids: Any, logits: Any, scores: Any, t: Any, weight_from: Any) -> None:
    """Raw weights of row t; 0 the score, 1 and 2 softmax and sigmoid of the chosen, 3 mixed."""
    top, total = -INF, ZERO
    for k in range(ids.shape[1]):
        top = max_nan(top, logits[t, ids[t, k]])
    for k in range(ids.shape[1]):
        total += math.exp(logits[t, ids[t, k]] - top)
    for k in range(ids.shape[1]):
        x = logits[t, ids[t, k]]
        if weight_from == 0:
            weights[t, k] = scores[t, ids[t, k]]
        elif weight_from == 3:
            other = ids[t, 1 - k]
            y = logits[t, other]
            second = place_of(order_of(y), other) > place_of(order_of(x), ids[t, k])
            weights[t, k] = mixed(logits, t, x, other if second else -1)
        else:
            weights[t, k] = score_of(weight_from - 1, x, top, total)


def weights(
    weights: Any,
    ids: Any,
    logits: Any,
    scores: Any,
    weight_from: Any,
    renormalise: Any,
    epsilon: Any,
    floor: Any,
    scale: Any,
) -> None:
    """Weights (T, K) of ids (T, K), and both in order of weight, then id; one thread a token."""
    t = cuda.grid(1)
    if t >= ids.shape[0]:
        return
    gather(weights, ids, logits, scores, t, weight_from)
    total = ONE
    if renormalise:
        total = ZERO
        for k in range(ids.shape[1]):
            total += weights[t, k]
        total += epsilon
        if floor != ZERO:
            total = max_nan(total, floor)
    for k in range(ids.shape[1]):  # insertion: each goes left past all that it beats
        weight, expert, at = float32(weights[t, k] / total * scale), ids[t, k], k
        place = place_of(order_of(weight), expert)
        while at > 0 and place > place_of(order_of(weights[t, at - 1]), ids[t, at - 1]):
            weights[t, at], ids[t, at] = weights[t, at - 1], ids[t, at - 1]
            at -= 1
        weights[t, at], ids[t, at] = weight, expert

"""Softmax in spans: 256 keys at a time, each with its own maximum, folded into what came before.

    of a span   m largest score, l sum of e^(s - m), P sum of e^(s - m) v
    fold        m' = max(m0, m1);  l = l0 e^(m0 - m') + l1 e^(m1 - m');  P likewise
    at the end  P / l

Milakov and Gimelshein 2018 (arXiv:1805.02867). What a query has so far is m, l and, from the 17th
word on, P, all float32; `row` is its address.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from tinymoe.kernels.cpu.kernel import _caller, helper, inlined, part
from tinymoe.kernels.cpu.lazily import operation as _op
from tinymoe.kernels.cpu.maths import exp, exp_one
from tinymoe.kernels.cpu.rows import kept, put_piece
from tinymoe.kernels.cpu.simd import (
    F32,
    f32_at,
    f64_of,
    largest,
    load,
    most,
    pick,
    prefetch,
    put_f32,
    splat,
    store,
    total,
)

KEYS = 256  # of a span: positions from a multiple of it on
NOTHING = float("-inf")  # the score of what is not seen

lane = _op(
    F32, (), lambda builder: ir.Constant(F32.llvm, [float(i) for i in range(16)]), "0 1 2 ... 15."
)


@inlined
def offset(m):
    """What comes off scores whose largest is m: -inf - -inf would be NaN."""
    return m if m != NOTHING else np.float32(0.0)


@part
def clear(row, width):
    """Of no keys at all."""
    put_f32(row, NOTHING)
    put_f32(row + 4, 0.0)
    for k in range(0, width, 16):
        store(row + 64 + 4 * k, splat(0.0))


@helper
def weigh(p: Any, begin: Any, end: Any, scale: Any, row: Any, ahead: Any) -> None:
    """Products q . k at places begin .. end - 1 of p to weights e^(scale q . k - m); m, l to row.

    Weights of other places, up to whole pieces of 16, become 0. At least one key is seen. `scale`:
    the bits of a float64. Meanwhile a line of memory after `ahead` is asked for with each piece.
    """
    first, low, high = begin // 16 * 16, splat(begin), splat(end)
    highest, factor = splat(NOTHING), splat(f64_of(scale))
    for k in range(first, end, 16):
        prefetch(ahead + 4 * k)
        place = lane() + splat(k)
        s = load(p + 4 * k) * factor
        s = pick(place, low, splat(NOTHING), pick(place, high, s, splat(NOTHING)))
        store(p + 4 * k, s)
        highest = most(highest, s)
    m = largest(highest)
    off, sums = splat(offset(m)), splat(0.0)
    for k in range(first, end, 16):
        prefetch(ahead + 4 * (KEYS + k))
        weight = exp(load(p + 4 * k) - off)
        store(p + 4 * k, weight)
        sums = sums + weight
    put_f32(row, m)
    put_f32(row + 4, total(sums))


@helper
def fold(row: Any, other: Any, rows: Any, step: Any, width: Any) -> None:
    """The keys of `other`, which come later, into `row`: `rows` of each, `step` bytes apart.

    Of no keys: nothing changes.
    """
    for _ in range(rows):
        if f32_at(other + 4) != 0.0:
            # whoever has the larger maximum shrinks by e^0 = 1
            m, mine, theirs = f32_at(row), np.float32(1.0), np.float32(1.0)
            if f32_at(other) > m:
                mine = exp_one(m - f32_at(other))
                m = f32_at(other)
            else:
                theirs = exp_one(f32_at(other) - offset(m))
            put_f32(row, m)
            put_f32(row + 4, f32_at(row + 4) * mine + f32_at(other + 4) * theirs)
            for k in range(64, 64 + 4 * width, 64):
                new = load(row + k) * splat(mine) + load(other + k) * splat(theirs)
                store(row + k, new)
        row += step
        other += step


@helper
def finish(row: Any, sink: Any, width: Any, out: Any, rounding: Any) -> None:
    """P / l to `out`. A sink is one more score, without a value: it adds to l (gpt-oss).

    `sink`: its address; 0 is none.
    """
    divisor, mine = f32_at(row + 4), splat(1.0)
    if sink != 0:
        m = f32_at(row)
        if f32_at(sink) > m:
            m = f32_at(sink)
        shrink = exp_one(f32_at(row) - offset(m))
        divisor = divisor * shrink + exp_one(f32_at(sink) - offset(m))
        mine = splat(shrink)
    for k in range(0, width, 16):
        v = load(row + 64 + 4 * k) * mine / splat(divisor)
        put_piece(out + 4 * k, kept(v, rounding), width - k)


call_five = _caller(5)  # one of these by its address: (address, five numbers)

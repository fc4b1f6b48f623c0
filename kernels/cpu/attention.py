"""Attention over pages: each token looks back at its own sequence. See `model/attention.py`.

Keys are taken in spans of 256 positions, from multiples of 256 on. Of each span, for each query:

    scores   s[j] = scale * (q . k[j]): one chain over D, fused; then the product
    weights  p[j] = e^(s[j] - m), m the largest of the span; l their sum: 16 lanes by position, each
             in order, then `total`
    mix      P = p[first] v[first] + ...: one chain over the span's keys, fused

and spans are folded in order (`spans.fold`), so nothing grows with the context. What a token sees
and in which order it is summed depends on its position alone: the same bits alone, in a prompt, in
any chunk of it, in any company, and with any number of threads.

Threads share out blocks (up to 48 queries that one key head serves, of consecutive tokens of a
run) and key heads. Where these are too few to keep all threads busy (decoding), they share out
spans as well: each leaves m, l and P in memory, and `merge` folds them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.kernels.cpu.ahead import LIST, ask, begin_ahead, nothing_ahead
from tinymoe.kernels.cpu.batch import POSITIONS, RUN_OF, RUNS, TABLES, TOKENS, own, share, word
from tinymoe.kernels.cpu.blocks import (
    AT_ONCE,
    COUNT,
    FIELDS,
    block_at,
    block_shape,
    by_spans,
    first_seen,
    places,
    row_bytes,
    spans_of,
)
from tinymoe.kernels.cpu.blocks import own_bytes as own_bytes
from tinymoe.kernels.cpu.blocks import record_rows as record_rows
from tinymoe.kernels.cpu.grid import products, turned
from tinymoe.kernels.cpu.kernel import arguments, kernel, part
from tinymoe.kernels.cpu.simd import f32_at, f64_of, i64_at, put_i64, splat, store
from tinymoe.kernels.cpu.spans import KEYS, clear, finish, fold, weigh


@part
def addresses(args, batch, mine, t, n, item, begin, end):
    """Fill a thread's lists for positions begin .. end - 1 and one part of a key head's queries.

    Lists of keys and values begin at the span's first position; what is missing of the 16 around
    the first and the last key is that key again.
    """
    (q, q_stride, heads, kv_heads, dim, value_dim, key_pages, key_stride, value_pages,
     value_stride, page_size, group) = arguments(args, 12)  # fmt: skip
    parts, each, _ = block_shape(heads, kv_heads)
    queries, weights, keys, values, _, _, p, _, _, _, _ = places(mine, dim, value_dim)
    head, part = item // parts, item % parts
    served = heads // kv_heads
    count = min(each, served - part * each)
    for i in range(n):
        for j in range(count):
            row, number = i * count + j, head * served + part * each + j
            put_i64(queries + 8 * row, q + 4 * ((t + i) * q_stride + number * dim))
            put_i64(weights + 8 * row, p + 4 * KEYS * row)
    run = i64_at(word(batch, RUN_OF) + 8 * t)
    table = i64_at(word(batch, TABLES) + 8 * (group * word(batch, RUNS) + run))
    position, base = begin, begin // KEYS * KEYS
    while position < end:
        place = position % page_size
        slot = i64_at(table + 8 * (position // page_size)) * page_size + place
        for _ in range(min(page_size - place, end - position)):
            at = 8 * (position - base)
            put_i64(keys + at, key_pages + 4 * (slot * key_stride + head * dim))
            put_i64(values + at, value_pages + 4 * (slot * value_stride + head * value_dim))
            slot += 1
            position += 1
    first, last = begin - base, end - 1 - base
    for place in range(first // 16 * 16, first):
        put_i64(keys + 8 * place, i64_at(keys + 8 * first))
    for place in range(last + 1, (last + 16) // 16 * 16):
        put_i64(keys + 8 * place, i64_at(keys + 8 * last))
    return count


@part
def score(mine, dim, value_dim, begin, end, own_key, count, rows):
    """q . k of all rows and keys at places begin .. end - 1 of a span, to the rows of weights.

    The first `count` rows' own key is at place `own_key`, the next ones' after it: rows that come
    before all of 64 keys are left out. What rows do not see is left to `weigh`.
    """
    queries, _, keys, _, dims, turned_keys, p, _, _, ahead, _ = places(mine, dim, value_dim)
    stop, no_skip = (end + 15) // 16 * 16, np.int64(0)  # 0 alone would be a type of its own
    for start in range(begin // 16 * 16, end, AT_ONCE):
        width = min(AT_ONCE, stop - start)
        for k in range(0, width, 8):
            turned(keys + 8 * (start + k), dim, turned_keys + 4 * k, 4 * AT_ONCE)
            ask(ahead)
        skipped = max(0, start - own_key) * count
        for row in range(skipped, rows):
            for k in range(0, width, 16):
                store(p + 4 * (row * KEYS + start + k), splat(0.0))
        to = p + 4 * (skipped * KEYS + start)
        xs = queries + 8 * skipped
        products(rows - skipped, xs, no_skip, dims, dim, to, 4 * KEYS, width, ahead)


@part
def mix(mine, dim, value_dim, row, rows, begin, end, result):
    """Values at places begin .. end - 1 of a span, weighted, onto P of `rows` rows from `row`."""
    if begin < end and rows > 0:
        _, weights, _, values, _, _, _, _, _, ahead, _ = places(mine, dim, value_dim)
        step = row_bytes(value_dim)
        to = result + step * row + 64
        xs, listed = weights + 8 * row, values + 8 * begin
        products(rows, xs, 4 * begin, listed, end - begin, to, step, value_dim, ahead)


@part
def look_back(args, batch, mine, t, n, item, span, result):
    """One block's m, l and P of one span, to `result`: a row for each token's each query."""
    given = arguments(args, COUNT)
    dim, value_dim, scale, window, chunk = given[4], given[5], given[12], given[13], given[14]
    base, step = span * KEYS, row_bytes(value_dim)
    first = i64_at(word(batch, POSITIONS) + 8 * t)
    begin = max(0, first_seen(first, window, chunk) - base)
    end = min(KEYS, first + n - base)
    count = addresses(args, batch, mine, t, n, item, base + begin, base + end)
    p = places(mine, dim, value_dim)[6]
    score(mine, dim, value_dim, begin, end, first - base, count, n * count)
    common_begin, common_end, i0, i1 = 0, KEYS, n, 0  # what all see who see anything
    for i in range(n):
        low = max(0, first_seen(first + i, window, chunk) - base)
        high = min(KEYS, first + i + 1 - base)
        for row in range(i * count, (i + 1) * count):
            clear(result + step * row, value_dim)
            if low < high:
                weigh(p + 4 * KEYS * row, low, high, f64_of(scale), result + step * row)
        if low < high:
            common_begin, common_end = max(common_begin, low), min(common_end, high)
            i0, i1 = min(i0, i), i + 1
    if common_begin >= common_end:  # a window shorter than the block
        common_begin, common_end = KEYS, KEYS
    for i in range(i0, i1):
        low = max(0, first_seen(first + i, window, chunk) - base)
        high = min(KEYS, first + i + 1 - base)
        mix(mine, dim, value_dim, i * count, count, low, min(high, common_begin), result)
    rows = (i1 - i0) * count
    mix(mine, dim, value_dim, i0 * count, rows, common_begin, common_end, result)
    for i in range(i0, i1):
        high = min(KEYS, first + i + 1 - base)
        mix(mine, dim, value_dim, i * count, count, common_end, high, result)
    return count


@part
def look_ahead(args, batch, mine, t, n, span):
    """Begin to ask for a span of a block, or, where the block has no more, of the next block."""
    given = arguments(args, COUNT)
    heads, kv_heads, dim, value_dim, window, chunk = (
        given[2], given[3], given[4], given[5], given[13], given[14],
    )  # fmt: skip
    parts, each, tokens = block_shape(heads, kv_heads)
    ahead = places(mine, dim, value_dim)[9]
    begin, end = spans_of(batch, t, n, window, chunk)
    if span >= end:
        t += n
        if t >= word(batch, TOKENS):
            nothing_ahead(ahead)
            return
        n = block_at(batch, t, tokens)
        span, end = spans_of(batch, t, n, window, chunk)
    first = i64_at(word(batch, POSITIONS) + 8 * t)
    begin = max(span * KEYS, first_seen(first, window, chunk))
    end = min((span + 1) * KEYS, first + n)
    key_pages, key_stride, value_pages, value_stride, page_size, group = given[6:12]
    run = i64_at(word(batch, RUN_OF) + 8 * t)
    table = i64_at(word(batch, TABLES) + 8 * (group * word(batch, RUNS) + run))
    rows = 0
    for position in range(begin, end):
        slot = i64_at(table + 8 * (position // page_size)) * page_size + position % page_size
        put_i64(ahead + LIST + 8 * rows, key_pages + 4 * slot * key_stride)
        rows += 1
        if value_pages != key_pages:
            put_i64(ahead + LIST + 8 * rows, value_pages + 4 * slot * value_stride)
            rows += 1
    # `score` asks after each 8 keys, `products` after each piece of 16 lanes of 6 queries
    pieces = KEYS // 16 + KEYS // AT_ONCE * ((value_dim + 15) // 16)
    calls = kv_heads * parts * (KEYS // 8 + pieces * ((n * each + 5) // 6))
    begin_ahead(ahead, rows, kv_heads * dim // 16, calls)


@part
def write_out(args, t, n, item, count, rows):
    """Finish a block's rows: to `out`."""
    given = arguments(args, COUNT)
    heads, kv_heads, value_dim, sinks = given[2], given[3], given[5], given[15]
    out, out_stride, rounding = given[16], given[17], given[18]
    parts, each, _ = block_shape(heads, kv_heads)
    first = item // parts * (heads // kv_heads) + item % parts * each
    for row in range(n * count):
        token, head = t + row // count, first + row % count
        sink = f32_at(sinks + 4 * head) if sinks else 0.0
        to = out + 4 * (token * out_stride + head * value_dim)
        finish(rows + row_bytes(value_dim) * row, sink, sinks != 0, value_dim, to, rounding)


@kernel(FIELDS)
def attend(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """q (T, Nq, D) over the keys that each token sees: out (T, Nq, Dv), unless `merge` has to.

    q, out: rows `q_stride` and `out_stride` apart. Key pages: position p of a page, head h at
    (page * P + p) * key_stride + h * D; values likewise with Dv, and they may be a part of the
    keys. Strides in numbers. `group`: whose block tables. window, chunk: 0 is none. sinks: (Nq,)
    or None. `rounding`: out to BF16. records: room for so many rows of `row_bytes`, see
    `record_rows`; with less room, spans are not shared out.
    """
    given = arguments(args, COUNT)
    heads, kv_heads, dim, value_dim, window, chunk = (
        given[2], given[3], given[4], given[5], given[13], given[14],
    )  # fmt: skip
    parts, each, tokens = block_shape(heads, kv_heads)
    mine, records = own(batch, thread), given[19]
    _, _, _, _, dims, turned_keys, _, result, so_far, ahead, _ = places(mine, dim, value_dim)
    for d in range(dim):
        put_i64(dims + 8 * d, turned_keys + 4 * AT_ONCE * d)
    apart, step = by_spans(args, batch, threads), row_bytes(value_dim)
    mine_first, mine_last = share(apart, thread, threads)
    items = kv_heads * parts
    nothing_ahead(ahead)
    t, turn = 0, 0
    while t < word(batch, TOKENS):
        n = block_at(batch, t, tokens)
        begin, end = spans_of(batch, t, n, window, chunk)
        if apart:
            for span in range(begin, end):
                for item in range(items):
                    if mine_first <= turn < mine_last:
                        if item == 0 or turn == mine_first:
                            look_ahead(args, batch, mine, t, n, span + 1)
                        look_back(args, batch, mine, t, n, item, span, records)
                    records += n * each * step
                    turn += 1
        else:
            for item in range(items):
                if turn % threads == thread:
                    count = 0
                    for row in range(n * each):
                        clear(so_far + step * row, value_dim)
                    for span in range(begin, end):
                        count = look_back(args, batch, mine, t, n, item, span, result)
                        for row in range(n * count):
                            fold(so_far + step * row, result + step * row, value_dim)
                    write_out(args, t, n, item, count, so_far)
                turn += 1
        t += n


@kernel(FIELDS)
def merge(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """After `attend`, with the same arguments: fold what it left of spans, if anything."""
    given = arguments(args, COUNT)
    heads, kv_heads, dim, value_dim, window, chunk = (
        given[2], given[3], given[4], given[5], given[13], given[14],
    )  # fmt: skip
    if not by_spans(args, batch, threads):
        return
    parts, each, tokens = block_shape(heads, kv_heads)
    so_far, records = places(own(batch, thread), dim, value_dim)[8], given[19]
    items, step = kv_heads * parts, row_bytes(value_dim)
    t, turn = 0, 0
    while t < word(batch, TOKENS):
        n = block_at(batch, t, tokens)
        begin, end = spans_of(batch, t, n, window, chunk)
        for item in range(items):
            if turn % threads == thread:
                count = min(each, heads // kv_heads - item % parts * each)
                for row in range(n * count):
                    clear(so_far + step * row, value_dim)
                for span in range(end - begin):
                    record = records + (span * items + item) * n * each * step
                    for row in range(n * count):
                        fold(so_far + step * row, record + step * row, value_dim)
                write_out(args, t, n, item, count, so_far)
            turn += 1
        records += (end - begin) * items * n * each * step
        t += n

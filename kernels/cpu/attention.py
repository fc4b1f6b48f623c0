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
run) and items (key heads, or parts of one's queries). Where these are too few to keep all threads
busy (decoding), they share out spans as well: each leaves m, l and P in memory, and `merge` folds
them. A thread then takes a span's keys 64 at a time, for all heads, so that memory is read forward.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.kernels.cpu.batch import POSITIONS, TOKENS, own, share, word
from tinymoe.kernels.cpu.blocks import (
    AT_ONCE,
    COUNT,
    FIELDS,
    TILES,
    block_at,
    block_shape,
    by_spans,
    first_seen,
    places,
    row_bytes,
    side_by_side,
    spans_of,
    tile_bytes,
    value_tile_bytes,
)
from tinymoe.kernels.cpu.blocks import own_bytes as own_bytes
from tinymoe.kernels.cpu.blocks import record_rows as record_rows
from tinymoe.kernels.cpu.grid import MIXES, SCORES, call_mixes, call_scores
from tinymoe.kernels.cpu.kernel import arguments, call_helper, kernel, part
from tinymoe.kernels.cpu.lists import list_queries, list_span, queries_of, set_up
from tinymoe.kernels.cpu.pages import TILE
from tinymoe.kernels.cpu.simd import i64_at
from tinymoe.kernels.cpu.spans import KEYS, call_five, clear, finish, fold, weigh


def helpers(item: int) -> dict[str, Any]:
    """What `attend` and `merge` call, compiled once for both. `item`: bytes of a cached number."""
    chosen = {"item": item, "scores": SCORES[item], "mixes": MIXES[item]}
    return {**chosen, "weigh": weigh, "fold": fold, "finish": finish}


@part
def score(args, mine, n, first_item, last_item, begin, end, own_key):
    """q . k of a block's rows and keys at places begin .. end - 1 of a span, to weights' rows.

    Token i's own key is at place own_key + i: tokens that come before all of 64 keys are left out.
    What tokens do not see is left to `weigh`.
    """
    given = arguments(args, COUNT)
    heads, kv_heads, dim, value_dim = given[2:6]
    queries, _, keys, values, _, p, _, _, _ = places(mine, value_dim)
    parts, each, _ = block_shape(heads, kv_heads)
    stop = (end + TILE - 1) // TILE
    for start in range(begin // TILE, stop, AT_ONCE // TILE):
        count = min(AT_ONCE // TILE, stop - start)
        skipped = min(n, max(0, TILE * start - own_key))
        for item in range(first_item, last_item):
            head = item // parts
            _, group = queries_of(heads, kv_heads, item)
            row, rows = (item - first_item) * n * each + skipped * group, (n - skipped) * group
            call_scores(
                given[19], rows, queries + 8 * row,
                keys + 8 * start, count, tile_bytes(dim, given[8]) * head, dim,
                values + 8 * start, value_tile_bytes(value_dim, given[8]) * head,
                p + 4 * (row * KEYS + TILE * start), 4 * KEYS,
            )  # fmt: skip


@part
def weigh_all(args, mine, n, first_item, last_item, base, first, result):
    """From products to weights: of every token and head, over what the token sees of a span."""
    given = arguments(args, COUNT)
    heads, kv_heads, dim, value_dim = given[2:6]
    p, step = places(mine, value_dim)[5], row_bytes(value_dim)
    following, asked = places(mine, value_dim)[4], 0
    _, each, _ = block_shape(heads, kv_heads)
    for i in range(n):
        low = max(0, first_seen(first + i, given[11], given[12]) - base)
        high = min(KEYS, first + i + 1 - base)
        for item in range(first_item, last_item):
            _, count = queries_of(heads, kv_heads, item)
            row = (item - first_item) * n * each + i * count
            for r in range(row, row + count):
                clear(result + step * r, value_dim)
                if low < high:
                    tile, head = asked // kv_heads % TILES, asked % kv_heads
                    ahead = i64_at(following + 8 * tile) + tile_bytes(dim, given[8]) * head
                    to = result + step * r
                    call_helper(given[21], p + 4 * KEYS * r, low, high, given[10], to, ahead)
                    asked += 1


@part
def mix_rows(args, mine, item, row, rows, low, high, result):
    """Values at places low .. high - 1 of a span, weighted, onto P of `rows` rows from `row`."""
    given = arguments(args, COUNT)
    heads, kv_heads, dim, value_dim = given[2:6]
    _, weights, _, values, following, _, _, _, _ = places(mine, value_dim)
    head, step = item // block_shape(heads, kv_heads)[0], row_bytes(value_dim)
    call_mixes(
        given[20], rows, weights + 8 * row,
        values, value_tile_bytes(value_dim, given[8]) * head, low, high,
        following, tile_bytes(dim, given[8]) * head,
        (value_dim + TILE - 1) // TILE, result + step * row + 64, step,
    )  # fmt: skip


@part
def mix(args, mine, n, item, row, begin, end, base, first, result):
    """Values at places begin .. end - 1 of a span, weighted, onto P of an item's rows from `row`.

    Tokens that see all of these values take them together.
    """
    given = arguments(args, COUNT)
    _, count = queries_of(given[2], given[3], item)
    i0, together = n, 0
    for i in range(n):
        low = max(begin, first_seen(first + i, given[11], given[12]) - base)
        high = min(end, first + i + 1 - base)
        if low == begin and high == end:
            i0, together = min(i0, i), together + 1
        elif low < high:
            mix_rows(args, mine, item, row + i * count, count, low, high, result)
    if together:
        rows = together * count
        mix_rows(args, mine, item, row + i0 * count, rows, begin, end, result)


@part
def look_back(args, batch, mine, t, n, first_item, last_item, span, result):
    """A block's m, l and P of one span, to `result`: n * each rows for each item, see `score`."""
    given = arguments(args, COUNT)
    window, chunk = given[11], given[12]
    _, each, _ = block_shape(given[2], given[3])
    base, first = span * KEYS, i64_at(word(batch, POSITIONS) + 8 * t)
    begin, end = max(0, first_seen(first, window, chunk) - base), min(KEYS, first + n - base)
    list_span(args, batch, mine, t, n, span, begin, end)
    list_queries(args, mine, t, n, first_item, last_item)
    score(args, mine, n, first_item, last_item, begin, end, first - base)
    weigh_all(args, mine, n, first_item, last_item, base, first, result)
    for start in range(begin // AT_ONCE * AT_ONCE, end, AT_ONCE):
        low, high = max(begin, start), min(end, start + AT_ONCE)
        for item in range(first_item, last_item):
            row = (item - first_item) * n * each
            mix(args, mine, n, item, row, low, high, base, first, result)


@part
def begin_rows(args, n, items, rows):
    """No keys yet, for a block's rows of so many items."""
    given = arguments(args, COUNT)
    value_dim, each = given[5], block_shape(given[2], given[3])[1]
    for row in range(items * n * each):
        clear(rows + row_bytes(value_dim) * row, value_dim)


@part
def fold_rows(args, n, first_item, last_item, rows, result):
    """What a block's rows have so far, and one span more."""
    given = arguments(args, COUNT)
    value_dim, each = given[5], block_shape(given[2], given[3])[1]
    step = row_bytes(value_dim)
    for item in range(first_item, last_item):
        _, count = queries_of(given[2], given[3], item)
        at = step * (item - first_item) * n * each
        call_five(given[22], rows + at, result + at, n * count, step, value_dim)


@part
def write_out(args, t, n, first_item, last_item, rows):
    """Finish a block's rows: to `out`."""
    given = arguments(args, COUNT)
    heads, kv_heads, value_dim, sinks = given[2], given[3], given[5], given[13]
    out, out_stride, rounding = given[14:17]
    each, step = block_shape(heads, kv_heads)[1], row_bytes(value_dim)
    for item in range(first_item, last_item):
        first, count = queries_of(heads, kv_heads, item)
        for i in range(n):
            for j in range(count):
                row = (item - first_item) * n * each + i * count + j
                sink = sinks + 4 * (first + j) if sinks else 0
                to = out + 4 * ((t + i) * out_stride + (first + j) * value_dim)
                call_five(given[23], rows + step * row, sink, value_dim, to, rounding)


@kernel(FIELDS)
def attend(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """q (T, Nq, D) over the keys that each token sees: out (T, Nq, Dv), unless `merge` has to.

    q, out: rows `q_stride` and `out_stride` numbers apart. Pages: see `pages.py`; `item`, `scores`
    and `mixes` are of their numbers. `group`: whose block tables. window, chunk: 0 is none. sinks:
    (Nq,) or None. `rounding`: out to BF16. records: room for so many rows of `row_bytes`, see
    `record_rows`; with less room, spans are not shared out.
    """
    given = arguments(args, COUNT)
    heads, kv_heads, _, value_dim = given[2:6]
    window, chunk = given[11:13]
    parts, each, tokens = block_shape(heads, kv_heads)
    mine, records, items = own(batch, thread), given[17], kv_heads * parts
    result, so_far = places(mine, value_dim)[6:8]
    set_up(args, mine)
    apart = by_spans(args, batch, threads)
    mine_first, mine_last = share(apart, thread, threads)
    t, turn = np.int64(0), np.int64(0)  # 0 alone is a type of its own: all would be compiled twice
    while t < word(batch, TOKENS):
        n = block_at(batch, t, tokens)
        begin, end = spans_of(batch, t, n, window, chunk)
        at_once = side_by_side(batch, threads, n, each, items, apart)
        for item in range(0, items, at_once):
            stop = min(items, item + at_once)
            if apart:
                for span in range(begin, end):
                    if mine_first <= turn < mine_last:
                        at = ((span - begin) * items + item) * n * each * row_bytes(value_dim)
                        look_back(args, batch, mine, t, n, item, stop, span, records + at)
                    turn += 1
            elif turn % threads == thread:
                begin_rows(args, n, stop - item, so_far)
                for span in range(begin, end):
                    look_back(args, batch, mine, t, n, item, stop, span, result)
                    fold_rows(args, n, item, stop, so_far, result)
                write_out(args, t, n, item, stop, so_far)
            turn += apart == 0
        records += (end - begin) * items * n * each * row_bytes(value_dim)
        t += n


@kernel(FIELDS)
def merge(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """After `attend`, with the same arguments: fold what it left of spans, if anything."""
    given = arguments(args, COUNT)
    heads, kv_heads, _, value_dim = given[2:6]
    window, chunk = given[11:13]
    if not by_spans(args, batch, threads):
        return
    parts, each, tokens = block_shape(heads, kv_heads)
    so_far, records = places(own(batch, thread), value_dim)[7], given[17]
    items, step = kv_heads * parts, row_bytes(value_dim)
    t, turn = np.int64(0), np.int64(0)
    while t < word(batch, TOKENS):
        n = block_at(batch, t, tokens)
        begin, end = spans_of(batch, t, n, window, chunk)
        for item in range(items):
            if turn % threads == thread:
                begin_rows(args, n, 1, so_far)
                for span in range(end - begin):
                    at = records + (span * items + item) * n * each * step
                    fold_rows(args, n, item, item + 1, so_far, at)
                write_out(args, t, n, item, item + 1, so_far)
            turn += 1
        records += (end - begin) * items * n * each * step
        t += n

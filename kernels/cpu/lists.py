"""Where keys, values and queries lie: lists of addresses, for the products of `grid.py`."""

from __future__ import annotations

from tinymoe.kernels.cpu.batch import POSITIONS, RUN_OF, RUNS, TABLES, word
from tinymoe.kernels.cpu.blocks import AT_ONCE, COUNT, TOGETHER, block_shape, places
from tinymoe.kernels.cpu.kernel import arguments, part
from tinymoe.kernels.cpu.simd import i64_at, put_i64
from tinymoe.kernels.cpu.spans import KEYS


@part
def list_rows(batch, t, group, page_size, pages, stride, begin, end, to):
    """A list at `to`: where positions begin .. end - 1 of a token's sequence lie."""
    run = i64_at(word(batch, RUN_OF) + 8 * t)
    table = i64_at(word(batch, TABLES) + 8 * (group * word(batch, RUNS) + run))
    while begin < end:
        place = begin % page_size
        at = pages + 4 * stride * (i64_at(table + 8 * (begin // page_size)) * page_size + place)
        for _ in range(min(page_size - place, end - begin)):
            put_i64(to, at)
            to, at, begin = to + 8, at + 4 * stride, begin + 1


@part
def list_span(args, batch, mine, t, n, span, begin, end):
    """Fill a thread's lists with what a block sees of a span: places begin .. end - 1.

    What is missing of the 16 around the first and the last key is that key again. Gives the
    number of keys that come next.
    """
    given = arguments(args, COUNT)
    pages, stride, value_pages, value_stride, page_size, group = given[6:12]
    keys = places(mine, given[4], given[5])[2]
    values, following = keys + 8 * KEYS, keys + 16 * KEYS
    base = span * KEYS
    low, high = base + begin, base + end
    list_rows(batch, t, group, page_size, pages, stride, low, high, keys + 8 * begin)
    list_rows(batch, t, group, page_size, value_pages, value_stride, low, high, values + 8 * begin)
    for place in range(begin // 16 * 16, begin):
        put_i64(keys + 8 * place, i64_at(keys + 8 * begin))
    for place in range(end, (end + 15) // 16 * 16):
        put_i64(keys + 8 * place, i64_at(keys + 8 * (end - 1)))
    last = i64_at(word(batch, POSITIONS) + 8 * (t + n - 1))
    coming = max(0, min(AT_ONCE, last + 1 - base - KEYS))
    low, high = base + KEYS, base + KEYS + coming
    list_rows(batch, t, group, page_size, pages, stride, low, high, following)
    return coming


@part
def queries_of(heads, kv_heads, item):
    """(the first query head of an item, how many it has)."""
    parts, each, _ = block_shape(heads, kv_heads)
    served, first = heads // kv_heads, item % parts * each
    return item // parts * served + first, min(each, served - first)


@part
def list_queries(args, mine, t, n, item, last_item):
    """Fill a thread's list of queries: token after token of each item, n * each places an item."""
    given = arguments(args, COUNT)
    q, q_stride, heads, kv_heads, dim = given[:5]
    _, each, _ = block_shape(heads, kv_heads)
    to = places(mine, dim, given[5])[0]
    while item < last_item:
        first, count = queries_of(heads, kv_heads, item)
        for i in range(n):
            for j in range(count):
                at = q + 4 * ((t + i) * q_stride + (first + j) * dim)
                put_i64(to + 8 * (i * count + j), at)
        item, to = item + 1, to + 8 * n * each


@part
def set_up(args, mine):
    """What does not change in a thread's lists: rows of weights, and of 64 keys' dimensions."""
    given = arguments(args, COUNT)
    _, weights, _, dims, turned_keys, p, _, _, _ = places(mine, given[4], given[5])
    for row in range(TOGETHER):
        put_i64(weights + 8 * row, p + 4 * KEYS * row)
    for d in range(given[4]):
        put_i64(dims + 8 * d, turned_keys + 4 * AT_ONCE * d)

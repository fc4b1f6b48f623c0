"""Where tiles of keys and values, and queries, lie: lists of addresses, for `grid.py`."""

from __future__ import annotations

from tinymoe.kernels.cpu.batch import PAGE_SIZE, POSITIONS, RUN_OF, RUNS, TABLES, word
from tinymoe.kernels.cpu.blocks import (
    COUNT,
    TOGETHER,
    block_shape,
    places,
    tile_bytes,
    value_tile_bytes,
)
from tinymoe.kernels.cpu.kernel import arguments, part
from tinymoe.kernels.cpu.pages import TILE
from tinymoe.kernels.cpu.simd import i64_at, put_i64
from tinymoe.kernels.cpu.spans import KEYS


@part
def list_tiles(batch, t, group, pages, size, begin, end, to):
    """A list at `to`: the tiles, of `size` bytes, with positions begin .. end - 1 of a sequence."""
    run = i64_at(word(batch, RUN_OF) + 8 * t)
    table = i64_at(word(batch, TABLES) + 8 * (group * word(batch, RUNS) + run))
    of_page = word(batch, PAGE_SIZE) // TILE
    for tile in range(begin // TILE, (end + TILE - 1) // TILE):
        number = i64_at(table + 8 * (tile // of_page)) * of_page + tile % of_page
        put_i64(to, pages + size * number)
        to += 8


@part
def list_span(args, batch, mine, t, n, span, begin, end):
    """Fill a thread's lists with what a block sees of a span: places begin .. end - 1.

    Where no keys come next, those of this span stand for them: there is nothing to ask for.
    """
    given = arguments(args, COUNT)
    kv_heads, dim, value_dim, key_pages, value_pages, item, group = given[3:10]
    _, _, keys, values, following, _, _, _, _ = places(mine, value_dim)
    size, base, skip = kv_heads * tile_bytes(dim, item), span * KEYS, 8 * (begin // TILE)
    list_tiles(batch, t, group, key_pages, size, base + begin, base + end, keys + skip)
    of_values = kv_heads * value_tile_bytes(value_dim, item)
    list_tiles(batch, t, group, value_pages, of_values, base + begin, base + end, values + skip)
    for tile in range(begin // TILE, (end + TILE - 1) // TILE):
        put_i64(following + 8 * tile, i64_at(keys + 8 * tile))
    last = i64_at(word(batch, POSITIONS) + 8 * (t + n - 1))
    low, high = base + KEYS, min(base + 2 * KEYS, last + 1)
    list_tiles(batch, t, group, key_pages, size, low, high, following)


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
    to = places(mine, given[5])[0]
    while item < last_item:
        first, count = queries_of(heads, kv_heads, item)
        for i in range(n):
            for j in range(count):
                at = q + 4 * ((t + i) * q_stride + (first + j) * dim)
                put_i64(to + 8 * (i * count + j), at)
        item, to = item + 1, to + 8 * n * each


@part
def set_up(args, mine):
    """What does not change in a thread's lists: rows of weights."""
    given = arguments(args, COUNT)
    _, weights, _, _, _, p, _, _, _ = places(mine, given[5])
    for row in range(TOGETHER):
        put_i64(weights + 8 * row, p + 4 * KEYS * row)

"""How attention's work is cut: blocks of queries, spans of keys, and where a thread keeps them."""

from __future__ import annotations

import numpy as np

from tinymoe.kernels.cpu.batch import POSITIONS, RUN_OF, RUNS, TOKENS, word
from tinymoe.kernels.cpu.kernel import arguments, part
from tinymoe.kernels.cpu.pages import TILE
from tinymoe.kernels.cpu.simd import i64_at
from tinymoe.kernels.cpu.spans import KEYS

ROWS = 48  # queries of a block that one key head serves, at most
TOGETHER = 3 * ROWS  # queries of a block, of all its heads that a thread computes side by side
AT_ONCE = 64  # keys of one head that a thread takes before it goes to the next head
TILES = KEYS // TILE  # of a span
FIELDS = (
    "q q_stride heads kv_heads dim value_dim key_pages value_pages item group scale window chunk "
    "sinks out out_stride rounding records room scores mixes weigh fold finish"
)
COUNT = len(FIELDS.split())


@part
def row_bytes(value_dim):
    """Of one query's m, l (16 words, so that P begins at a cache line) and P."""
    return 64 + (value_dim + 15) // 16 * 64


@part
def places(mine, value_dim):
    """Where things are in a thread's memory; the last is its end.

    Addresses of queries, of rows of weights, and of tiles: of a span's keys, its values, and the
    next span's keys; weights; a span's result; the result so far.
    """
    queries = mine
    weights = queries + 8 * TOGETHER
    keys = weights + 8 * TOGETHER
    values = keys + 8 * TILES
    following = values + 8 * TILES
    p = following + 8 * TILES
    result = p + 4 * TOGETHER * KEYS
    so_far = result + TOGETHER * row_bytes(value_dim)
    end = so_far + TOGETHER * row_bytes(value_dim)
    return queries, weights, keys, values, following, p, result, so_far, end


@part
def tile_bytes(dim, item):
    """Of 16 keys of a head."""
    return TILE * item * dim


@part
def value_tile_bytes(value_dim, item):
    """Of 16 values of a head."""
    return TILE * TILE * item * ((value_dim + TILE - 1) // TILE)


def own_bytes(value_dim: int) -> int:
    """Of a thread's memory: some 240 KB for heads of 64, whatever the context."""
    return int(places(0, value_dim)[-1])


def record_rows(threads: int, heads: int, kv_heads: int, context: int) -> int:
    """Rows of `row_bytes` that `records` needs for a step of single tokens.

    With more room, short prompts after a long context are shared out as well; with less, a token
    is one thread's work for each key head.
    """
    parts, each, _ = block_shape.py_func(heads, kv_heads)
    tokens = max(1, 4 * threads // (kv_heads * parts))
    return int(tokens * kv_heads * parts * each * (context // KEYS + 1))


@part
def first_seen(position, window, chunk):
    """The earliest key that a token sees; 0 is no window, no chunk."""
    first = 0
    if window:
        first = max(0, position - window + 1)
    if chunk:
        first = max(first, position // chunk * chunk)
    return first


@part
def block_shape(heads, kv_heads):
    """(parts of a key head's queries, queries of a part, tokens of a block)."""
    group = heads // kv_heads
    parts = (group + ROWS - 1) // ROWS
    each = (group + parts - 1) // parts
    return parts, each, ROWS // each


@part
def block_at(batch, t, tokens):
    """How many tokens from t on are a block: of one run, `tokens` at most."""
    count, run_of = word(batch, TOKENS), word(batch, RUN_OF)
    n = 1
    while n < tokens and t + n < count and i64_at(run_of + 8 * (t + n)) == i64_at(run_of + 8 * t):
        n += 1
    return n


@part
def spans_of(batch, t, n, window, chunk):
    """(first span, last + 1) that tokens t .. t + n - 1 of a run see."""
    positions = word(batch, POSITIONS)
    first = first_seen(i64_at(positions + 8 * t), window, chunk)
    return first // KEYS, i64_at(positions + 8 * (t + n - 1)) // KEYS + 1


@part
def side_by_side(batch, threads, n, each, items, apart):
    """How many of a block's items (key heads, or parts of one's queries) a thread does at once.

    All that fit, where keys come from memory: a row of a page is all heads', and memory likes to
    be read forward. One, where there would be too few shares, or many tokens share the keys.
    """
    if apart == 0 and (n > 1 or word(batch, TOKENS) < 4 * threads):
        return 1
    return max(1, min(items, TOGETHER // (n * each)))


@part
def by_spans(args, batch, threads):
    """Whether spans are shared out as well: blocks are few, one has several, the records fit.

    How many shares there are then; else 0.
    """
    given = arguments(args, COUNT)
    heads, kv_heads, window, chunk, room = given[2], given[3], given[11], given[12], given[18]
    parts, each, tokens = block_shape(heads, kv_heads)
    t, blocks, records, most, shares = np.int64(0), 0, 0, 0, 0  # t: see `attend`
    items = kv_heads * parts
    while t < word(batch, TOKENS):
        n = block_at(batch, t, tokens)
        begin, end = spans_of(batch, t, n, window, chunk)
        at_once = side_by_side(batch, threads, n, each, items, 1)
        shares += (end - begin) * ((items + at_once - 1) // at_once)
        records += (end - begin) * items * n * each
        most = max(most, end - begin)
        blocks += 1
        t += n
    few = items * blocks < 4 * threads or word(batch, TOKENS) <= 2 * word(batch, RUNS)
    return shares if few and most > 1 and records <= room else 0

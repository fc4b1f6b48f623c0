"""How attention's work is cut: blocks of queries, spans of keys, and where a thread keeps them."""

from __future__ import annotations

from numba import njit

from tinymoe.kernels.cpu.ahead import LIST
from tinymoe.kernels.cpu.batch import POSITIONS, RUN_OF, RUNS, TOKENS, word
from tinymoe.kernels.cpu.kernel import arguments, part
from tinymoe.kernels.cpu.simd import i64_at
from tinymoe.kernels.cpu.spans import KEYS

ROWS = 48  # queries of a block at most
AT_ONCE = 64  # keys whose dimensions lie side by side
FIELDS = (
    "q q_stride heads kv_heads dim value_dim key_pages key_stride value_pages value_stride "
    "page_size group scale window chunk sinks out out_stride rounding records room"
)
COUNT = len(FIELDS.split())


@njit(inline="always")
def row_bytes(value_dim):
    """Of one query's m, l (16 words, so that P begins at a cache line) and P."""
    return 64 + (value_dim + 15) // 16 * 64


@part
def places(mine, dim, value_dim):
    """Where things are in a thread's memory; the last is its end.

    Addresses of queries, of rows of weights, of keys, of values, of dimensions; dimensions of 64
    keys; weights; a span's result; the result so far.
    """
    queries = mine
    weights = queries + 8 * ROWS
    keys = weights + 8 * ROWS
    values = keys + 8 * KEYS
    dims = values + 8 * KEYS
    turned_keys = dims + (8 * dim + 63) // 64 * 64
    p = turned_keys + 4 * AT_ONCE * dim
    result = p + 4 * ROWS * KEYS
    so_far = result + ROWS * row_bytes(value_dim)
    ahead = so_far + ROWS * row_bytes(value_dim)
    end = ahead + LIST + 16 * KEYS
    return queries, weights, keys, values, dims, turned_keys, p, result, so_far, ahead, end


def own_bytes(dim: int, value_dim: int) -> int:
    """Of a thread's memory: some 100 KB for heads of 64, whatever the context."""
    return int(places.py_func(0, dim, value_dim)[-1])


def record_rows(threads: int, heads: int, kv_heads: int, context: int) -> int:
    """Rows of `row_bytes` that `records` needs for a step of single tokens.

    With more room, short prompts after a long context are shared out as well; with less, a token
    is one thread's work for each key head.
    """
    parts, each, _ = block_shape.py_func(heads, kv_heads)
    tokens = max(1, 4 * threads // (kv_heads * parts))
    return int(tokens * kv_heads * parts * each * (context // KEYS + 1))


@njit(inline="always")
def first_seen(position, window, chunk):
    """The earliest key that a token sees; 0 is no window, no chunk."""
    first = 0
    if window:
        first = max(0, position - window + 1)
    if chunk:
        first = max(first, position // chunk * chunk)
    return first


@njit(inline="always")
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
def by_spans(args, batch, threads):
    """Whether spans are shared out as well: blocks are few, one has several, the records fit."""
    given = arguments(args, COUNT)
    heads, kv_heads, window, chunk, room = given[2], given[3], given[13], given[14], given[20]
    parts, each, tokens = block_shape(heads, kv_heads)
    t, items, records, most, spans = 0, 0, 0, 0, 0
    while t < word(batch, TOKENS):
        n = block_at(batch, t, tokens)
        begin, end = spans_of(batch, t, n, window, chunk)
        items += kv_heads * parts
        spans += (end - begin) * kv_heads * parts
        records += (end - begin) * kv_heads * parts * n * each
        most = max(most, end - begin)
        t += n
    few = items < 4 * threads or word(batch, TOKENS) <= 2 * word(batch, RUNS)
    return spans if few and most > 1 and records <= room else 0

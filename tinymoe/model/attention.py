"""Attention over a paged cache: each token looks back at its own sequence, one token at a time.

A page is P consecutive positions of one sequence; a block table lists a sequence's pages in
order. Query token i sees keys 0..i, always as one product of the same shape, whether it came
in a prompt, in a chunk of one, or alone: so a prompt may be split anywhere without changing a
bit (vllm#26042: chunked prefill cost 28 points of GSM8K).

A sliding window of W shows the last W keys, a chunk of C those from the last multiple of C on;
keys that are out of sight are not part of the product.
"""

from __future__ import annotations

import math

from tinymoe.core import Array, Numerics
from tinymoe.model.precision import array_module, store
from tinymoe.model.router import softmax


def write_pages(pages: Array, slots: Array, values: Array) -> None:
    """Put T new keys (or values) into the cache, in place.

    pages (pages, P, Nk, D); values (T, Nk, D); slots (T,): page number * P + place in the page.
    """
    pages.reshape(-1, *pages.shape[2:])[slots] = values


def read_pages(pages: Array, block_table: Array, length: int, first: int = 0) -> Array:
    """Keys (or values) first .. length - 1 of one sequence, as one (length - first, Nk, D) array.

    Pages before the first one that is needed are not read. Pages that lie one after another, as
    those of a sequence that grew alone do, are not copied: the array is then a part of the cache.
    """
    page_size = pages.shape[1]
    skipped = first // page_size
    used = block_table[skipped : -(-length // page_size)]  # pages needed, rounded up
    numbers = used.tolist()
    begin = numbers[0] if numbers else 0
    if numbers == list(range(begin, begin + len(numbers))):
        rows = pages[begin : begin + len(numbers)].reshape(-1, *pages.shape[2:])
    else:
        rows = pages.take(used, axis=0).reshape(-1, *pages.shape[2:])
    offset = skipped * page_size
    return rows[first - offset : length - offset]


def first_seen(position: int, window: int | None, chunk: int | None) -> int:
    """The earliest key that a token sees: i - W + 1 in a window, the chunk's first in a chunk.

    The window counts the token itself: taken as W keys before it, every sum has one key too many.
    """
    first = 0 if window is None else max(0, position - window + 1)
    return first if chunk is None else max(first, position // chunk * chunk)


def slots_of(positions: Array, block_table: Array, page_size: int) -> Array:
    """Where positions (T,) of one sequence live: (T,) page number * P + place in the page."""
    slots: Array = block_table[positions // page_size] * page_size + positions % page_size
    return slots


def attend(q: Array, k: Array, v: Array, scale: float, sinks: Array | None = None) -> Array:
    """One query token over n keys: q (Nq, D), k (n, Nk, D), v (n, Nk, Dv) -> (Nq, Dv), unrounded.

    Key head h serves query heads h*g .. h*g + g - 1, g = Nq / Nk. Scores: dot products over D
    in BLAS order, times `scale`; softmax over n (maximum off first, NumPy's pairwise sum);
    then the weighted sum of values over n in BLAS order. All in the arrays' own type.
    `sinks` (Nq,): one more score of each head that takes its share and has no value (gpt-oss).
    """
    kv_heads, head_dim = k.shape[1:]
    grouped = q.reshape(kv_heads, -1, head_dim)  # (Nk, g, D)
    scores = grouped @ k.transpose(1, 2, 0)  # (Nk, g, n)
    scores = scores * scale
    if sinks is None:
        weights = softmax(scores)  # (Nk, g, n)
    else:
        own = sinks.reshape(kv_heads, -1, 1)  # (Nk, g, 1)
        joined = array_module(q).concatenate([scores, own], axis=-1)  # (Nk, g, n + 1)
        weights = softmax(joined)[..., :-1]
    mixed: Array = weights @ v.transpose(1, 0, 2)  # (Nk, g, Dv)
    return mixed.reshape(len(q), -1)


def attention_decode(
    q: Array,
    key_pages: Array,
    value_pages: Array,
    block_tables: list[Array],
    lengths: list[int],
    scale: float,
    numerics: Numerics,
    *,
    window: int | None = None,
    chunk: int | None = None,
    sinks: Array | None = None,
) -> Array:
    """One new token of each of R sequences: q (R, Nq, D) -> (R, Nq, Dv).

    key_pages (pages, P, Nk, D), value_pages (pages, P, Nk, Dv); block_tables[r] (pages of r,);
    lengths[r]: tokens of sequence r, the new one included (its key is already in its page). It
    sees them all, but for those that `window` or `chunk` hides.
    """
    out = array_module(q).empty((*q.shape[:2], value_pages.shape[-1]), dtype=q.dtype)
    for r, (table, length) in enumerate(zip(block_tables, lengths, strict=True)):
        first = first_seen(length - 1, window, chunk)
        k = read_pages(key_pages, table, length, first)  # (n, Nk, D)
        v = read_pages(value_pages, table, length, first)
        out[r] = attend(q[r], k, v, scale, sinks)
    return store(out, numerics.storage)


def attention_prefill(
    q: Array,
    key_pages: Array,
    value_pages: Array,
    block_table: Array,
    start: int,
    scale: float,
    numerics: Numerics,
    *,
    window: int | None = None,
    chunk: int | None = None,
    sinks: Array | None = None,
) -> Array:
    """T consecutive tokens of one sequence, the first at position `start`: q (T, Nq, D).

    Causal: token t sees keys 0 .. start + t, but for those that `window` or `chunk` hides.
    Equals `attention_decode` of each, bit for bit.
    """
    length, read_from = start + len(q), first_seen(start, window, chunk)
    k = read_pages(key_pages, block_table, length, read_from)  # (length - read_from, Nk, D)
    v = read_pages(value_pages, block_table, length, read_from)
    out = array_module(q).empty((*q.shape[:2], value_pages.shape[-1]), dtype=q.dtype)
    for t in range(len(q)):
        first = first_seen(start + t, window, chunk) - read_from
        last = start + t + 1 - read_from
        out[t] = attend(q[t], k[first:last], v[first:last], scale, sinks)
    return store(out, numerics.storage)


def attend_naive(
    q: Array, k: Array, v: Array, scale: float, sinks: Array | None = None
) -> list[list[float]]:
    """The twin of `attend`: head by head, key by key, in Python floats."""
    group = q.shape[0] // k.shape[1]
    out = []
    for h in range(q.shape[0]):
        keys, values = k[:, h // group], v[:, h // group]
        scores = [
            scale * sum(float(a) * float(b) for a, b in zip(q[h], key, strict=True)) for key in keys
        ]
        top = max(scores) if sinks is None else max(*scores, float(sinks[h]))
        powers = [math.exp(s - top) for s in scores]
        total = sum(powers) + (0.0 if sinks is None else math.exp(float(sinks[h]) - top))
        row = [
            sum(p / total * float(value[d]) for p, value in zip(powers, values, strict=True))
            for d in range(v.shape[2])
        ]
        out.append(row)
    return out

"""Attention over a paged cache: each token looks back at its own sequence, one token at a time.

A page is P consecutive positions of one sequence; a block table lists a sequence's pages in
order. Query token i sees keys 0..i, always as one product of the same shape, whether it came
in a prompt, in a chunk of one, or alone: so a prompt may be split anywhere without changing a
bit (vllm#26042: chunked prefill cost 28 points of GSM8K).
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


def read_pages(pages: Array, block_table: Array, length: int) -> Array:
    """The first `length` keys (or values) of one sequence, as one (length, Nk, D) array."""
    page_size = pages.shape[1]
    used = block_table[: -(-length // page_size)]  # pages needed, rounded up
    return pages.take(used, axis=0).reshape(-1, *pages.shape[2:])[:length]


def slots_of(positions: Array, block_table: Array, page_size: int) -> Array:
    """Where positions (T,) of one sequence live: (T,) page number * P + place in the page."""
    slots: Array = block_table[positions // page_size] * page_size + positions % page_size
    return slots


def attend(q: Array, k: Array, v: Array, scale: float) -> Array:
    """One query token over n keys: q (Nq, D), k and v (n, Nk, D) -> (Nq, D), unrounded.

    Key head h serves query heads h*g .. h*g + g - 1, g = Nq / Nk. Scores: dot products over D
    in BLAS order, times `scale`; softmax over n (maximum off first, NumPy's pairwise sum);
    then the weighted sum of values over n in BLAS order. All in the arrays' own type.
    """
    kv_heads, head_dim = k.shape[1:]
    grouped = q.reshape(kv_heads, -1, head_dim)  # (Nk, g, D)
    scores = grouped @ k.transpose(1, 2, 0)  # (Nk, g, n)
    weights = softmax(scores * scale)  # (Nk, g, n)
    mixed: Array = weights @ v.transpose(1, 0, 2)  # (Nk, g, D)
    return mixed.reshape(q.shape)


def attention_decode(
    q: Array,
    key_pages: Array,
    value_pages: Array,
    block_tables: list[Array],
    lengths: list[int],
    scale: float,
    numerics: Numerics,
) -> Array:
    """One new token of each of R sequences: q (R, Nq, D) -> (R, Nq, D).

    key_pages and value_pages (pages, P, Nk, D); block_tables[r] (pages of r,); lengths[r]: keys
    that sequence r's token sees, itself included (its key is already in its page).
    """
    out = array_module(q).empty_like(q)
    for r, (table, length) in enumerate(zip(block_tables, lengths, strict=True)):
        k, v = read_pages(key_pages, table, length), read_pages(value_pages, table, length)
        out[r] = attend(q[r], k, v, scale)
    return store(out, numerics.storage)


def attention_prefill(
    q: Array,
    key_pages: Array,
    value_pages: Array,
    block_table: Array,
    start: int,
    scale: float,
    numerics: Numerics,
) -> Array:
    """T consecutive tokens of one sequence, the first at position `start`: q (T, Nq, D).

    Causal: token t sees keys 0 .. start + t. Equals `attention_decode` of each, bit for bit.
    """
    length = start + len(q)
    k = read_pages(key_pages, block_table, length)  # (length, Nk, D)
    v = read_pages(value_pages, block_table, length)
    out = array_module(q).empty_like(q)
    for t in range(len(q)):
        out[t] = attend(q[t], k[: start + t + 1], v[: start + t + 1], scale)
    return store(out, numerics.storage)


def attend_naive(q: Array, k: Array, v: Array, scale: float) -> list[list[float]]:
    """The twin of `attend`: head by head, key by key, in Python floats."""
    group = q.shape[0] // k.shape[1]
    out = []
    for h in range(q.shape[0]):
        keys, values = k[:, h // group], v[:, h // group]
        scores = [
            scale * sum(float(a) * float(b) for a, b in zip(q[h], key, strict=True)) for key in keys
        ]
        powers = [math.exp(s - max(scores)) for s in scores]
        total = sum(powers)
        row = [
            sum(p / total * float(value[d]) for p, value in zip(powers, values, strict=True))
            for d in range(q.shape[1])
        ]
        out.append(row)
    return out

"""Inputs to try an op on: hypothesis strategies, one an op, that draw its arguments by name.

A case is drawn as a shape, a kind of values and a seed: hypothesis picks (and shrinks) those,
NumPy fills the arrays. Each kind is there for a bug that random normal inputs never showed
(flashinfer#2732: wrong on real weights, never on random ones). Needs the extra `tinymoe[test]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tinymoe.cards import PLAIN_SWIGLU
from tinymoe.core import Array, Numerics, RopeCard
from tinymoe.kernels import linear_strategies
from tinymoe.kernels.formats_strategies import STRATEGIES as FORMATS
from tinymoe.kernels.route_strategy import route
from tinymoe.kernels.sample_strategy import sample
from tinymoe.kernels.strategy_values import any_numerics, fill, kinds, seeds
from tinymoe.model.attention import first_seen
from tinymoe.model.precision import store
from tinymoe.model.rope import rope_tables

Case = dict[str, Any]
CLAMPED = replace(
    PLAIN_SWIGLU, activation="swiglu_clamped", clamp_limit=7.0, clamp_alpha=1.702, biases=True
)


@st.composite
def linear(draw: DrawFn) -> Case:
    """Odd widths, one token, one output, a bias or none, exact sums and wide ranges."""
    n, rng = draw(any_numerics), np.random.default_rng(draw(seeds))
    tokens, width, out = draw(st.integers(1, 5)), draw(st.integers(1, 40)), draw(st.integers(1, 9))
    x, weight = (fill(rng, draw(kinds), shape, n) for shape in ((tokens, width), (out, width)))
    case = {"x": x, "weight": weight, "numerics": n}
    if draw(st.booleans()):
        case["bias"] = fill(rng, draw(kinds), (out,), n)
    return case


@st.composite
def rmsnorm(draw: DrawFn) -> Case:
    """A row or heads, zeros (only eps is left), one dimension."""
    n, rng = draw(any_numerics), np.random.default_rng(draw(seeds))
    lead = draw(st.sampled_from([(1,), (3,), (2, 3)]))
    width = draw(st.sampled_from([1, 2, 7, 32, 64]))
    return {
        "x": fill(rng, draw(kinds), (*lead, width), n),
        "weight": fill(rng, draw(st.sampled_from(["grid", "normal"])), (width,), n),
        "eps": draw(st.sampled_from([1e-6, 1e-5, 1.0])),
        "numerics": n,
        "rounds_before_weight": draw(st.booleans()),
    }


@st.composite
def rope(draw: DrawFn) -> Case:
    """Both pairings, part of a head, position 0 and very late ones."""
    n, rng = draw(any_numerics), np.random.default_rng(draw(seeds))
    d = draw(st.sampled_from([2, 4, 8, 16]))
    card = RopeCard(
        theta=draw(st.sampled_from([1e4, 1e6])),
        rotary_dim=draw(st.integers(1, d // 2)) * 2,
        pairing=draw(st.sampled_from(["half", "interleaved"])),
        scaling=None,
    )
    late = st.integers(0, 2_000_000)
    positions = np.array(draw(st.lists(st.one_of(st.integers(0, 3), late), min_size=1, max_size=4)))
    return {
        "x": fill(rng, draw(kinds), (len(positions), draw(st.integers(1, 3)), d), n),
        "tables": rope_tables(positions, card, n),
        "card": card,
        "numerics": n,
    }


@st.composite
def pages_of(
    draw: DrawFn, rng: np.random.Generator, n: Numerics, spans: list[range], page_size: int
) -> Case:
    """Sequences whose keys at these positions are seen, in scrambled pages; others are NaN.

    A slot past a sequence's end or before its window, a spare page of its table, and another's
    page must not leak into the result; NaN shows it if they do. Values may be shorter or longer
    than keys (latent attention).
    """
    kv_heads, group = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (1, 4), (2, 4)]))
    d, spare = draw(st.sampled_from([2, 4, 16])), draw(st.integers(0, 2))
    value_dim = draw(st.sampled_from([d, d, 3]))
    counts = [-(-span.stop // page_size) + spare for span in spans]
    pool = rng.permutation(sum(counts) + draw(st.integers(0, 2)))
    keys = np.full((len(pool), page_size, kv_heads, d), np.nan, n.dtype)
    values = np.full((len(pool), page_size, kv_heads, value_dim), np.nan, n.dtype)
    tables, kind = [], draw(kinds)
    for span, count in zip(spans, counts, strict=True):
        table, pool = pool[:count], pool[count:]
        tables.append(table.astype(np.int64))
        for position in span:
            slot = (table[position // page_size], position % page_size)
            keys[slot] = fill(rng, kind, (kv_heads, d), n)
            values[slot] = fill(rng, kind, (kv_heads, value_dim), n)
    return {
        "heads": (kv_heads * group, d),
        "key_pages": keys,
        "value_pages": values,
        "tables": tables,
        # scores from all equal to far apart, where one key takes everything
        "scale": draw(st.sampled_from([d**-0.5, 1.0, 30.0])),
    }


def lengths_near(page_size: int) -> SearchStrategy[int]:
    """One key, and lengths on both sides of a page's end."""
    around = [page_size - 1, page_size, page_size + 1, 2 * page_size, 2 * page_size + 1]
    return st.one_of(st.sampled_from([n for n in around if n >= 1]), st.integers(1, 20))


page_sizes = st.sampled_from([1, 2, 4, 16])


@st.composite
def sight(draw: DrawFn) -> dict[str, int]:
    """All keys; a window of one key, of a few, of more than there are; chunks; both."""
    named = {}
    for name in draw(st.sampled_from([(), (), ("window",), ("chunk",), ("window", "chunk")])):
        named[name] = draw(st.sampled_from([1, 2, 3, 4, 7, 16, 100]))
    return named


@st.composite
def sinks_of(draw: DrawFn, rng: np.random.Generator, n: Numerics, heads: int) -> Case:
    """None; or a sink a head, from one that takes next to nothing to one that takes all."""
    if draw(st.booleans()):
        return {}
    values = rng.normal(size=heads) * 2 + draw(st.sampled_from([-40.0, 0.0, 40.0]))
    return {"sinks": store(values.astype(n.dtype), n.storage)}


@st.composite
def attention_decode(draw: DrawFn) -> Case:
    """Sequences of unlike lengths, from one key on."""
    n, rng, page_size = draw(any_numerics), np.random.default_rng(draw(seeds)), draw(page_sizes)
    lengths = draw(st.lists(lengths_near(page_size), min_size=1, max_size=3))
    seen = draw(sight())
    spans = [range(first_seen(m - 1, seen.get("window"), seen.get("chunk")), m) for m in lengths]
    drawn = draw(pages_of(rng, n, spans, page_size))
    return {
        **seen,
        **draw(sinks_of(rng, n, drawn["heads"][0])),
        "q": fill(rng, draw(kinds), (len(lengths), *drawn["heads"]), n),
        "key_pages": drawn["key_pages"],
        "value_pages": drawn["value_pages"],
        "block_tables": drawn["tables"],
        "lengths": lengths,
        "scale": drawn["scale"],
        "numerics": n,
    }


@st.composite
def attention_prefill(draw: DrawFn) -> Case:
    """A chunk of a prompt, at its start or later, over a page's end or not."""
    n, rng, page_size = draw(any_numerics), np.random.default_rng(draw(seeds)), draw(page_sizes)
    length = draw(lengths_near(page_size))
    start = draw(st.one_of(st.just(0), st.integers(0, length - 1)))
    seen = draw(sight())
    first = first_seen(start, seen.get("window"), seen.get("chunk"))
    drawn = draw(pages_of(rng, n, [range(first, length)], page_size))
    return {
        **seen,
        **draw(sinks_of(rng, n, drawn["heads"][0])),
        "q": fill(rng, draw(kinds), (length - start, *drawn["heads"]), n),
        "key_pages": drawn["key_pages"],
        "value_pages": drawn["value_pages"],
        "block_table": drawn["tables"][0],
        "start": start,
        "scale": drawn["scale"],
        "numerics": n,
    }


def expert_ids(rng: np.random.Generator, tokens: int, experts: int, k: int, pool: int) -> Array:
    """Distinct ids (T, K) from the last `pool` experts: the others get no token."""
    rows = [experts - 1 - rng.permutation(max(pool, k))[:k] for _ in range(tokens)]
    return np.array(rows, np.int64)


@st.composite
def permute(draw: DrawFn) -> Case:
    """Experts without a token, all tokens on the same, K = 1, K = E, one token."""
    rng, experts = np.random.default_rng(draw(seeds)), draw(st.sampled_from([1, 2, 6, 60, 128]))
    k, pool = draw(st.integers(1, min(experts, 8))), draw(st.integers(1, experts))
    ids = expert_ids(rng, draw(st.integers(1, 12)), experts, k, pool)
    return {"ids": ids, "experts": experts}


@st.composite
def expert_ffn(draw: DrawFn) -> Case:
    """Experts without rows; and the grid on which silu is exact, so that every bit counts.

    Gates of at least 18 (37 in float64) pass as they are, the others are too low to pass at all.
    Every row and expert differs from its neighbours (sglang#32430: gate and up swapped).
    """
    n, rng = draw(any_numerics), np.random.default_rng(draw(seeds))
    experts, hidden, width = (draw(st.integers(1, most)) for most in (5, 12, 9))
    counts = rng.integers(0, 4, experts)
    counts[rng.integers(experts)] += 1  # at least one row
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    kind = draw(st.sampled_from(["exact", "grid", "normal", "wide"]))
    if kind == "exact":
        x = rng.integers(1, 4, (int(offsets[-1]), hidden)).astype(n.dtype)
        gate = rng.choice([-8.0, 1.0, 2.0], (experts, width, 1)) * 128 / np.ones(hidden)
        up = rng.integers(-4, 5, (experts, width, hidden))
        gate_up = np.concatenate([gate, up], axis=1).astype(n.dtype)
        down = rng.choice([-1.0, 0.5, 1.0], (experts, hidden, width)).astype(n.dtype)
    else:
        x = fill(rng, kind, (int(offsets[-1]), hidden), n)
        gate_up = fill(rng, kind, (experts, 2 * width, hidden), n)
        down = fill(rng, kind, (experts, hidden, width), n)
    case = {"x": x, "gate_up": gate_up, "down": down, "offsets": offsets, "numerics": n}
    if kind != "exact" and draw(st.booleans()):  # gpt-oss; "wide" goes far past the limit
        case["card"] = CLAMPED
        case["gate_up_bias"] = fill(rng, kind, (experts, 2 * width), n)
        case["down_bias"] = fill(rng, kind, (experts, hidden), n)
    return case


@st.composite
def combine(draw: DrawFn) -> Case:
    """Exact sums, weights that cancel, K = 1."""
    n, rng = draw(any_numerics), np.random.default_rng(draw(seeds))
    tokens, k, hidden = draw(st.integers(1, 4)), draw(st.integers(1, 8)), draw(st.integers(1, 9))
    return {
        "expert_out": fill(rng, draw(kinds), (tokens, k, hidden), n),
        "weights": fill(rng, draw(kinds), (tokens, k), n),
        "numerics": n,
    }


STRATEGIES: dict[str, Callable[[], SearchStrategy[Case]]] = {
    "linear": linear,
    "rmsnorm": rmsnorm,
    "rope": rope,
    "attention_prefill": attention_prefill,
    "attention_decode": attention_decode,
    "causal_conv": linear_strategies.causal_conv,
    "gated_delta": linear_strategies.gated_delta,
    "lightning": linear_strategies.lightning,
    "route": route,
    "permute": permute,
    "expert_ffn": expert_ffn,
    "combine": combine,
    "sample": sample,
    **FORMATS,
}

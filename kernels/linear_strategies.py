"""Inputs for the ops that carry a state: first tokens and later ones, states that go and stay."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tinymoe.core import Array, Numerics
from tinymoe.kernels.strategy_values import any_numerics, fill, kinds, seeds
from tinymoe.model.precision import store

Case = dict[str, Any]


@st.composite
def causal_conv(draw: DrawFn) -> Case:
    """One tap, as many taps as tokens, fewer, more; the start of a sequence and its middle."""
    n, rng = draw(any_numerics), np.random.default_rng(draw(seeds))
    tokens, channels, taps = (draw(st.integers(1, most)) for most in (6, 5, 5))
    return {
        "x": fill(rng, draw(kinds), (tokens, channels), n),
        "weight": fill(rng, draw(kinds), (channels, taps), n),
        "before": fill(rng, draw(kinds), (taps - 1, channels), n),
        "numerics": n,
    }


def _state(draw: DrawFn, rng: np.random.Generator, shape: tuple[int, ...], n: Numerics) -> Array:
    """Zeros, as at the start, or numbers that no storage has rounded."""
    scale = draw(st.sampled_from([0.0, 1.0, 100.0]))
    return (rng.normal(size=shape) * scale).astype(n.dtype)


@st.composite
def gated_delta(draw: DrawFn) -> Case:
    """Nothing kept, all kept; nothing taken in, all; keys of zeros, the same key again."""
    n, rng = draw(any_numerics), np.random.default_rng(draw(seeds))
    tokens, key_heads, group = (draw(st.integers(1, most)) for most in (5, 2, 3))
    key_dim, value_dim = draw(st.sampled_from([1, 2, 5, 8])), draw(st.sampled_from([1, 3, 4]))
    heads = key_heads * group
    k = fill(rng, draw(kinds), (tokens, key_heads, key_dim), n)
    if draw(st.booleans()):
        k[:] = k[:1]
    decays = draw(st.sampled_from([(0.0,), (-200.0,), (-1e-3, -1.0), (0.0, -0.1, -30.0)]))
    strengths = draw(st.sampled_from([(0.0,), (1.0,), (0.0, 0.3, 0.7, 1.0)]))
    beta = rng.choice(strengths, (tokens, heads)).astype(n.dtype)
    return {
        "q": fill(rng, draw(kinds), (tokens, key_heads, key_dim), n),
        "k": k,
        "v": fill(rng, draw(kinds), (tokens, heads, value_dim), n),
        "log_decay": rng.choice(decays, (tokens, heads)).astype(n.dtype),
        "beta": store(beta, n.storage),
        "state": _state(draw, rng, (heads, value_dim, key_dim), n),
        "eps": 1e-6,
        "numerics": n,
    }


@st.composite
def lightning(draw: DrawFn) -> Case:
    """A head that forgets at once beside one that forgets nothing."""
    n, rng = draw(any_numerics), np.random.default_rng(draw(seeds))
    tokens, heads, d = (draw(st.integers(1, most)) for most in (5, 3, 6))
    q, k, v = (fill(rng, draw(kinds), (tokens, heads, d), n) for _ in range(3))
    return {
        "q": q,
        "k": k,
        "v": v,
        "keep": rng.choice([0.0, 0.43, 0.996, 1.0], heads).astype(n.dtype),
        "state": _state(draw, rng, (heads, d, d), n),
        "numerics": n,
    }

"""Rotary position embedding: turn pairs of dimensions by an angle that grows with the position.

A query at position m and a key at position n, both turned, have a dot product that depends on
m - n alone. Su et al. 2021 (arXiv:2104.09864).
"""

from __future__ import annotations

import math

from tinymoe.cards import LinearScaling, Llama3Scaling, LongRopeScaling, RopeCard, YarnScaling
from tinymoe.core import Array, Numerics
from tinymoe.model.precision import array_module, store


def inverse_frequencies(card: RopeCard) -> list[float]:
    """The d/2 angles per position, in radians, in float64: theta^(-2j/d), j < d/2, then scaled."""
    d, scaling = card.rotary_dim, card.scaling
    plain = [card.theta ** (-2.0 * j / d) for j in range(d // 2)]
    if scaling is None:
        return plain
    if isinstance(scaling, LinearScaling):
        return [frequency / scaling.factor for frequency in plain]
    if isinstance(scaling, LongRopeScaling):
        return [f / factor for f, factor in zip(plain, scaling.factors, strict=True)]
    kept = (
        _kept_by_wavelength(plain, scaling)
        if isinstance(scaling, Llama3Scaling)
        else _kept_by_dimension(card, scaling)
    )
    return [f * (k + (1 - k) / scaling.factor) for f, k in zip(plain, kept, strict=True)]


def _kept_by_wavelength(plain: list[float], scaling: Llama3Scaling) -> list[float]:
    """How much of each frequency stays: 1 where its wave is short, 0 where it is long."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = [scaling.original_positions * f / (2 * math.pi) for f in plain]  # in the old context
    if low == high:  # Llama-4 Scout: nothing lies between
        return [float(n >= low) for n in turns]
    return [min(max((n - low) / (high - low), 0.0), 1.0) for n in turns]


def _kept_by_dimension(card: RopeCard, scaling: YarnScaling) -> list[float]:
    """YaRN's ramp over j: 1 up to the dimension of beta_fast turns, 0 from that of beta_slow."""
    d = card.rotary_dim

    def dimension(turns: float) -> float:
        """The j whose wave turns so often over the original positions, a fraction."""
        ratio = scaling.original_positions / (2 * math.pi * turns)
        return d * math.log(ratio) / (2 * math.log(card.theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    if low == high:  # Kimi-K2: beta_fast is beta_slow
        high += 0.001
    return [1 - min(max((j - low) / (high - low), 0.0), 1.0) for j in range(d // 2)]


def magnitude(card: RopeCard) -> float:
    """What cosines and sines are multiplied by: the attention factor of YaRN and longrope."""
    if isinstance(card.scaling, YarnScaling | LongRopeScaling):
        return card.scaling.attention_factor
    return 1.0


def rope_tables(positions: Array, card: RopeCard, numerics: Numerics) -> tuple[Array, Array]:
    """Cosines and sines, each (T, 1, d/2), for positions (T,).

    Angles and their cosines in float64, then one rounding to `numerics.accumulate`: an angle of
    1,000 radians in float32 is already wrong by 3e-5. YaRN's attention factor is part of both.
    """
    xp = array_module(positions)
    frequencies = xp.asarray(inverse_frequencies(card), dtype=xp.float64)  # (d/2,)
    angles = positions[:, None, None].astype(xp.float64) * frequencies  # (T, 1, d/2)
    cosine, sine = xp.cos(angles), xp.sin(angles)
    if (size := magnitude(card)) != 1:
        cosine, sine = cosine * size, sine * size
    return cosine.astype(numerics.dtype), sine.astype(numerics.dtype)


def rope(x: Array, tables: tuple[Array, Array], card: RopeCard, numerics: Numerics) -> Array:
    """Turn the first `card.rotary_dim` dimensions of every head. x (T, N, D) -> (T, N, D).

    `(a, b) -> (a cos - b sin, b cos + a sin)` for each pair, in `numerics.accumulate`, one
    rounding to storage. Pairs are j with j + d/2 ("half") or 2j with 2j + 1 ("interleaved");
    taking one for the other gives fluent nonsense.
    """
    xp = array_module(x)
    cosine, sine = tables  # (T, 1, d/2)
    d = card.rotary_dim
    if card.pairing == "half":
        first, second = slice(0, d // 2), slice(d // 2, d)
    else:
        first, second = slice(0, d, 2), slice(1, d, 2)
    a, b = x[..., first], x[..., second]  # (T, N, d/2)
    turned = xp.empty_like(x)
    turned[..., first] = a * cosine - b * sine
    turned[..., second] = b * cosine + a * sine
    if d < x.shape[-1]:
        turned[..., d:] = x[..., d:]  # dimensions past rotary_dim do not turn
    return store(turned, numerics.storage)


def rope_naive(x: Array, position: int, card: RopeCard) -> list[float]:
    """The twin: one head x (D,) as complex numbers times e^(i * angle), in Python floats."""
    out = [float(value) for value in x]
    half = card.rotary_dim // 2
    size = magnitude(card)
    for j, frequency in enumerate(inverse_frequencies(card)):
        first, second = (j, j + half) if card.pairing == "half" else (2 * j, 2 * j + 1)
        angle = position * frequency
        turn = size * complex(math.cos(angle), math.sin(angle))
        product = complex(out[first], out[second]) * turn
        out[first], out[second] = product.real, product.imag
    return out

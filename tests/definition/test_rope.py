"""Rope: the turn against its twin, and stretched frequencies against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinymoe.cards import LinearScaling, Llama3Scaling, RopeCard, YarnScaling
from tinymoe.core import NUMERICS
from tinymoe.model.rope import inverse_frequencies, rope, rope_naive, rope_tables

pytestmark = pytest.mark.definition

FP32 = NUMERICS["fp32"]
U = 2.0**-24


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("rotary_dim", [16, 8])
def test_rope(pairing: Any, rotary_dim: int) -> None:
    # pairs taken the other way, or dimensions past rotary_dim turned, give fluent nonsense
    card = RopeCard(theta=1e4, rotary_dim=rotary_dim, pairing=pairing, scaling=None)
    positions = np.array([0, 1, 5, 100_000])
    x = normal(4, 2, 16)
    got = rope(x, rope_tables(positions, card, FP32), card, FP32)
    for t, position in enumerate(positions):
        for head in range(2):
            wanted = rope_naive(x[t, head], int(position), card)
            # two products of factors rounded once each (2 u), and their sum (u); both members of
            # a pair are at most the largest value
            bound = 3 * U * 2 * np.abs(x[t, head]).max()
            assert np.abs(got[t, head] - wanted).max() <= bound
    np.testing.assert_array_equal(got[..., rotary_dim:], x[..., rotary_dim:])


SCALINGS = {
    "linear": LinearScaling(factor=4.0),
    "llama3": Llama3Scaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=64
    ),
    "llama3, nothing between": Llama3Scaling(
        factor=8.0, low_freq_factor=2.0, high_freq_factor=2.0, original_positions=64
    ),
    "yarn": YarnScaling(
        factor=8.0,
        original_positions=64,
        beta_fast=32.0,
        beta_slow=1.0,
        truncate=True,
        attention_factor=1.2,
    ),
}


@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_frequencies(name: str) -> None:
    # by hand from the formulas. sglang#22711: a factor that was ignored; vllm#30384
    card = RopeCard(theta=100.0, rotary_dim=8, pairing="half", scaling=SCALINGS[name])
    plain = [100.0 ** (-j / 4) for j in range(4)]  # wavelengths 6.28, 19.9, 62.8, 199
    # llama3: 64/wavelength = 10.2, 3.22, 1.02, 0.32: above 4 as it is, below 1 divided by 8;
    # between, s = (n - 1) / 3. yarn: a wave turns 32 times at j < 0, once at 4 ln(64 / 2 pi) /
    # ln 10^2 = 2.02: from 0 (max with 0) up to 3
    turns = [64 * f / (2 * np.pi) for f in plain]
    kept = {
        "linear": [0.0] * 4,
        "llama3": [1.0, (turns[1] - 1) / 3, (turns[2] - 1) / 3, 0.0],
        "llama3, nothing between": [1.0, 1.0, 0.0, 0.0],
        "yarn": [1.0, 2 / 3, 1 / 3, 0.0],
    }[name]
    factor = SCALINGS[name].factor
    wanted = [f * k + f / factor * (1 - k) for f, k in zip(plain, kept, strict=True)]
    np.testing.assert_allclose(inverse_frequencies(card), wanted, rtol=8 * 2.0**-53)
    cosine, sine = rope_tables(np.array([5]), card, NUMERICS["exact"])
    size = 1.2 if name == "yarn" else 1.0
    np.testing.assert_allclose(np.hypot(cosine, sine), size, rtol=8 * 2.0**-53)

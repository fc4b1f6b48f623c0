"""The draw: a published generator, its known answers, and ids that can be drawn.

Bugs: mini-sglang#88 (ranks that draw from different streams), flashinfer#2320 (ids that cannot be
drawn).
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinymoe.core import TinymoeError
from tinymoe.random_draw import draw, philox4x32, pick, uniform

pytestmark = pytest.mark.definition


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # known answers that Random123 publishes with its source (tests/kat_vectors)
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
def test_philox_known_answers(counter, key, words):
    def parsed(text):
        return tuple(int(word, 16) for word in text.split())

    assert philox4x32(parsed(counter), parsed(key)) == parsed(words)


def test_uniform_is_word_0_and_the_upper_21_bits_of_word_1():
    assert uniform(0, 0) * 2**53 == 0x6627E8D5 * 2**21 + (0xE169C58D >> 11)


def test_uniform_uses_all_bits_of_seed_and_step():
    values = {uniform(seed, step) for seed in (0, 1, 2**32, 2**63) for step in (0, 1, 2**32, 2**63)}
    assert len(values) == 16
    assert uniform(5, 7) == uniform(np.uint64(5), np.int32(7))  # whatever integers they come as


@pytest.mark.parametrize(("seed", "step"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**64)])
def test_uniform_refuses_what_would_wrap(seed, step):
    with pytest.raises(TinymoeError, match="from 0 to 2\\*\\*64 - 1"):
        uniform(seed, step)


def test_uniforms_are_uniform():
    # Dvoretzky, Kiefer, Wolfowitz (Massart's constant): the empirical distribution of n draws is
    # off by more than sqrt(log(2 / d) / 2n) anywhere with a chance below d. Fixed seed, d = 1e-9.
    n = 10_000
    values = np.sort([uniform(2026, step) for step in range(n)])
    assert len(set(values)) == n  # different step, different number
    gap = np.abs(values - (np.arange(n) + 0.5) / n).max() + 0.5 / n
    assert gap < math.sqrt(math.log(2 / 1e-9) / (2 * n))


def test_draws_follow_the_probabilities():
    # Hoeffding and a union over V tokens: each frequency is within sqrt(log(2V / d) / 2n) of its
    # probability but for a chance below d. Fixed seed, d = 1e-9.
    p, n = np.array([0.0, 0.5, 0.01, 0.2, 0.0, 0.29]), 20_000
    counts = np.bincount([draw(p, seed=7, step=step) for step in range(n)], minlength=len(p))
    assert np.abs(counts / n - p).max() < math.sqrt(math.log(2 * len(p) / 1e-9) / (2 * n))
    assert counts[[0, 4]].tolist() == [0, 0]


def test_pick_never_returns_a_token_of_probability_zero_at_the_edges():
    # flashinfer#2320. Ids 0, 2 and 4 cannot be drawn, at u = 0, at a boundary and at the last u.
    p, last = np.array([0, 0.5, 0, 0.5, 0]), 1 - 2**-53
    assert [pick(p, u) for u in (0.0, 0.5 - 2**-54, 0.5, last)] == [1, 1, 3, 3]
    assert pick(np.array([0, 5e-324, 0]), 0.9) == 1  # 0.9 of the smallest number is that number
    for size in range(1, 40):  # sums that round, also to above 1
        assert pick(np.append(np.full(size, 1 / size), 0.0), last) == size - 1


@pytest.mark.parametrize(
    "bad", [[0.5, np.nan], [1.5, -0.5], [0.0, 0.0], [math.inf, 1.0], [], [[1.0]]], ids=str
)
def test_pick_refuses_what_is_no_distribution(bad):
    with pytest.raises(TinymoeError, match="probabilities: expected"):
        pick(np.array(bad), 0.5)


def test_pick_refuses_one():
    with pytest.raises(TinymoeError, match="u: expected"):
        pick(np.array([1.0]), 1.0)

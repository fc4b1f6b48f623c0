"""One token from a vector of probabilities, with a random number that depends on nothing else.

The generator is counter-based: a random number is a function of (seed, step), not the next
state of a stream. So token n of a request is the same draw whether the request ran alone, in a
batch, after a preemption or on another rank (mini-sglang#88: ranks that drew from streams of
their own picked different tokens). No two engines share a stream: to compare engines, compare
the probabilities, never the draw.
"""

from __future__ import annotations

import numpy as np

from tinymoe.core import Array, TinymoeError

WORD = 2**32
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # 2**32 / golden ratio, and 2**32 * (sqrt(3) - 1)
ROUNDS = 10


def philox4x32(
    counter: tuple[int, int, int, int], key: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Philox4x32-10: four counter words and two key words (32 bits each) to four random words.

    Each round multiplies two words into 64 bits, swaps the halves and mixes in the key; for a
    given key it is a bijection, so two counters never share all four words. Salmon, Moraes, Dror
    and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.3.
    """
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = divmod(MULTIPLIERS[0] * a, WORD)
        high1, low1 = divmod(MULTIPLIERS[1] * c, WORD)
        a, b, c, d = high1 ^ b ^ k0, low1, high0 ^ d ^ k1, low0
        k0, k1 = (k0 + KEY_STEPS[0]) % WORD, (k1 + KEY_STEPS[1]) % WORD
    return a, b, c, d


def uniform(seed: int, step: int) -> float:
    """A multiple of 2**-53 in [0, 1): word 0 and the upper 21 bits of word 1.

    Key: the seed's lower, then upper 32 bits. Counter: the step's lower, then upper 32 bits,
    then two zeros.

    >>> uniform(seed=0, step=0) == (0x6627E8D5 * 2**21 + (0xE169C58D >> 11)) / 2**53
    True
    """
    for name, value in (("seed", seed), ("step", step)):
        if not 0 <= value < WORD * WORD:
            raise TinymoeError(
                f"{name}: expected an integer from 0 to 2**64 - 1, got {value}; "
                f"take it modulo 2**64"
            )
    # int(): a 32-bit NumPy integer would overflow in the products, without a word.
    step_high, step_low = divmod(int(step), WORD)
    seed_high, seed_low = divmod(int(seed), WORD)
    first, second, _, _ = philox4x32((step_low, step_high, 0, 0), (seed_low, seed_high))
    return ((first << 21) | (second >> 11)) * 2.0**-53


def draw(probabilities: Array, seed: int, step: int) -> int:
    """Probabilities (V,) to a token id: `pick` with the uniform number of (seed, step)."""
    return pick(probabilities, uniform(seed, step))


def pick(probabilities: Array, u: float) -> int:
    """The first id whose cumulative probability is above u times the total; u in [0, 1).

    The cumulative sum runs in id order, one by one, in float64. "Above", not "at least": a
    cumulative sum that rises above something at this id rose here, so this id's probability is
    not zero, also at u = 0 (flashinfer#2320: ids came back that could not be drawn). u times the
    total rounds to below the total for every u <= 1 - 2**-53 unless the total is subnormal; then
    the last id of probability above zero is taken.

    >>> pick(np.array([0.0, 0.5, 0.0, 0.5]), 0.0), pick(np.array([0.0, 0.5, 0.0, 0.5]), 0.5)
    (1, 3)
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 1 or p.size == 0:
        raise TinymoeError(
            f"probabilities: expected one row of shape (V,), got {p.shape}; draw one row at a time"
        )
    ids = np.flatnonzero(p)  # adding the zeros would change no sum
    cumulative = np.cumsum(p[ids])
    total = cumulative[-1] if ids.size else 0.0
    if not (p.min() >= 0 and 0 < total < np.inf):  # written so that NaN fails
        raise TinymoeError(
            f"probabilities: expected finite numbers of at least 0 with a sum above 0, got a "
            f"smallest of {p.min()} and a sum of {total} in shape {p.shape} {p.dtype}; "
            f"make them with `tinymoe.sampler.masked_probabilities`"
        )
    if not 0 <= u < 1:
        raise TinymoeError(f"u: expected a number in [0, 1), got {u}; `uniform` makes one")
    place = int(np.searchsorted(cumulative, u * total, side="right"))
    return int(ids[min(place, ids.size - 1)])

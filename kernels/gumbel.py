"""Drawing without a sum: add noise to each logit and take the largest.

If every logit x_i gets noise of its own, -log(-log u_i) with u_i even in (0, 1), then id i is the
largest with probability softmax(x)_i. Gumbel 1954; Maddison, Tarlow and Minka 2014
(arXiv:1411.0030). No id needs another's probability, so a GPU draws from all at once.

The same distribution as `tinymoe.random_draw.draw`, which every engine here uses, but other tokens:
the two spend their random words otherwise.
"""

from __future__ import annotations

import numpy as np

from tinymoe.core import Array
from tinymoe.random_draw import WORD, philox4x32

BITS = 23  # of a random word that are used: 2k + 1 then fits in float32's 24


def noise(seed: int, step: int, vocabulary: int) -> Array:
    """Noise (V,) float64 of draw number `step`: a function of (seed, step, id) and nothing else.

    u = (2k + 1) * 2^-24 with k the upper 23 bits of the first word that Philox gives for counter
    (step's lower and upper 32 bits, id, 1): the 1 keeps it apart from `random_draw.uniform`, whose
    counters end in 0. u is never 0 or 1, so noise lies between -2.82 and 16.64: of a million ids
    with a probability of 10^-8 together, none is drawn too often, but a single one of less than
    2^-24 hardly ever.
    """
    step_high, step_low = divmod(int(step), WORD)
    seed_high, seed_low = divmod(int(seed), WORD)
    words = [
        philox4x32((step_low, step_high, token, 1), (seed_low, seed_high))[0]
        for token in range(vocabulary)
    ]
    u = (2.0 * (np.array(words, np.uint64) >> np.uint64(32 - BITS)) + 1) * 2.0 ** -(BITS + 1)
    drawn: Array = -np.log(-np.log(u))
    return drawn


def gumbel_draw(logits: Array, seed: int, step: int) -> int:
    """Logits (V,), divided by the temperature, masked ones -inf, to a token id.

    In float64. Of equal sums the lowest id is taken.
    """
    return int((np.asarray(logits, np.float64) + noise(seed, step, len(logits))).argmax())

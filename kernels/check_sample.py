"""The check of `sample`: the probabilities to a bound, the draw from them exactly.

No two engines share a random stream, so a draw can be compared only where the vector is the
same: the token must be the one that (seed, step) picks from the implementation's own vector.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tinymoe import sampler
from tinymoe.core import Array, Sampling
from tinymoe.kernels.bounds import EXP, UNIT, compare, expect_array, gamma

U = UNIT["float64"]  # the sampler's type, whatever the model's


class Drawn(NamedTuple):
    """What an implementation of `sample` returns."""

    probabilities: Array  # (V,) float64, after all penalties and masks
    token_id: int


def check_sample(case: dict[str, Any], got: Any) -> None:
    """AssertionError unless probabilities and token are what the definition allows."""
    sampling: Sampling = case["sampling"]
    vocabulary = len(case["logits"])
    if not isinstance(got, tuple) or len(got) != 2:
        raise AssertionError(f"sample: expected (probabilities, token_id), got {got!r:.80}")
    probabilities, token = got
    expect_array("sample: probabilities", probabilities, (vocabulary,), np.float64)
    if sampler.is_greedy(sampling):
        want = sampler.masked_probabilities(**case)
        compare("sample: probabilities", probabilities, want, 0)
        expected = int(want.argmax())
    else:
        _check_probabilities(case, probabilities)
        expected = sampler.draw(probabilities, sampling.seed, len(case["output_ids"]))
    if token != expected:
        raise AssertionError(
            f"sample: token_id: got {token}, expected {expected}: number "
            f"{len(case['output_ids'])} of seed {sampling.seed} over the given probabilities"
        )


def _check_probabilities(case: dict[str, Any], got: Array) -> None:
    """The tokens left over, then their probabilities: a softmax over those, to a bound.

    Every mask keeps the first n of one order, by logit descending, then id. Which n can hang on a
    rounding in top_p and min_p (ten equal tokens and top_p 0.7): n must lie between those of
    thresholds a little stricter and a little looser.
    """
    sampling: Sampling = case["sampling"]
    unmasked = replace(sampling, top_p=1.0, min_p=0.0, top_k=0)
    x = sampler.processed_logits(**{**case, "sampling": unmasked})  # (V,)
    blur = exponent_error(case)
    few, many = (_kept(case, sign * threshold_error(len(x), blur)) for sign in (1, -1))
    kept = got > 0
    order = np.lexsort((np.arange(len(x)), -x))
    count = int(kept.sum())
    prefix = np.zeros_like(kept)
    prefix[order[:count]] = True
    flat = np.exp(np.maximum(x - x.max(), -800)) < 1e-300  # kept, but exp gives 0
    if not few <= count + int(flat.sum()) or count > many or (prefix != kept).any():
        want = sampler.masked_probabilities(**case) > 0
        wrong = np.flatnonzero(want != kept)
        raise AssertionError(
            f"sample: probabilities: kept tokens {np.flatnonzero(kept)[:8].tolist()} ({count} in "
            f"all), expected between {few} and {many}, by logit descending, then id; first "
            f"difference at id {wrong[0] if wrong.size else order[0]}"
        )
    p = sampler.softmax(np.where(kept, x, -np.inf))
    most = np.minimum(2 * blur, 700)
    bound = np.minimum(p * (1 - p + len(p) * U) * np.expm1(most), 1)
    bound += gamma(2 * (len(p) + EXP) + 4, U) * (p + bound)
    compare("sample: probabilities", got, p, 2 * bound + 1e-300)


def _kept(case: dict[str, Any], stricter: float) -> int:
    """How many tokens are left when the thresholds are stricter by this share (or looser)."""
    sampling: Sampling = case["sampling"]
    # top_p works on the mass to drop, 1 - top_p: more of it is stricter
    top_p = min(sampling.top_p - stricter, 1.0) if sampling.top_p < 1 else 1.0
    min_p = min(sampling.min_p * (1 + stricter), 1.0)
    nudged = replace(sampling, top_p=max(top_p, 0.0), min_p=min_p)
    return int(np.isfinite(sampler.processed_logits(**{**case, "sampling": nudged})).sum())


def threshold_error(vocabulary: int, blur: float) -> float:
    """By how much a correct cumulative or relative probability may be off: exponents, exp, sums."""
    return 2 * (float(np.expm1(min(2 * blur, 700))) + gamma(3 * vocabulary + 2 * EXP + 4, U))


def exponent_error(case: dict[str, Any]) -> float:
    """By how much an exponent (x - max x) may be off, over all tokens.

    Bias, repetition, frequency (product and difference), presence, temperature and the maximum
    are 7 roundings of values no larger than `size`, doubled for the maximum's own.
    """
    sampling: Sampling = case["sampling"]
    logits = np.asarray(case["logits"], np.float64)
    largest = np.abs(logits[np.isfinite(logits)]).max()
    bias = max(map(abs, sampling.logit_bias.values()), default=0.0)
    repetition = max(sampling.repetition_penalty, 1 / sampling.repetition_penalty)
    size = (largest + bias) * repetition + abs(sampling.presence_penalty)
    size += abs(sampling.frequency_penalty) * len(case["output_ids"])
    return 2 * gamma(7, U) * size / max(sampling.temperature, sampler.GREEDY_BELOW)

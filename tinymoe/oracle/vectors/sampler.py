"""Vectors of the sampler: logits and a request to the distribution that the token is drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tinymoe.core import Array, Sampling
from tinymoe.kernels.bounds import EXP, UNIT, gamma
from tinymoe.kernels.check_sample import exponent_error
from tinymoe.oracle.mutants import Row
from tinymoe.oracle.vectors.vector import Vector
from tinymoe.sampler import masked_probabilities

U, SHARE = UNIT["float32"], UNIT["float32"] / UNIT["float64"]
CLEAR = 1e-4  # thresholds moved by so much keep the same tokens


def sampler_vectors() -> Iterator[Vector]:
    """All of them."""
    rng = np.random.default_rng(1)
    logits = (np.sort(rng.normal(size=40))[::-1] * 2).astype(np.float32)  # ids rank the tokens
    shuffled = logits[rng.permutation(40)]
    tied = np.repeat(np.array([3.0, 2.0, 1.0, 0.0], np.float32), 5)
    asked = {
        "plain": Row(shuffled, Sampling()),
        "temperature": Row(shuffled, Sampling(temperature=0.6)),
        "top-k": Row(shuffled, Sampling(top_k=7, temperature=1.3)),
        "top-k-ties": Row(tied, Sampling(top_k=7)),
        "top-p-ties": Row(tied, Sampling(top_p=0.55)),
        "top-k-top-p": Row(shuffled, Sampling(temperature=1.6, top_k=5, top_p=0.9, min_p=0.05)),
        "min-p-first": Row(logits, Sampling(temperature=1.5, top_p=0.7, min_p=0.25)),
        "min-p-last": Row(
            logits, Sampling(temperature=1.5, top_p=0.6, min_p=0.3, order="transformers")
        ),
        "penalties": Row(
            logits,
            Sampling(
                temperature=0.7,
                repetition_penalty=1.3,
                presence_penalty=0.4,
                frequency_penalty=0.3,
            ),
            *((0, 2, 30), (1, 3, 3, 38, 38, 8)),
        ),
        "min-tokens": Row(
            shuffled,
            Sampling(min_tokens=4, stop_ids=(5,), logit_bias={7: 3.0, 9: -2.0}),
            *((), (1, 2), (11, 12)),
        ),
        "greedy-tie": Row(tied[::-1].copy(), Sampling(temperature=0.0)),
    }
    for name, row in asked.items():
        yield _vector(name, row)


def _vector(name: str, row: Row) -> Vector:
    want = masked_probabilities(*row)
    _check_clear(row, want)
    given = row._asdict()
    s, plain = row.sampling, Sampling()
    settings = [
        f"{field} {getattr(s, field)!r}"
        for field in (
            *("temperature", "top_k", "top_p", "min_p", "order", "repetition_penalty"),
            *("presence_penalty", "frequency_penalty", "min_tokens", "stop_ids", "logit_bias"),
        )
        if getattr(s, field) != getattr(plain, field)
    ]
    return Vector(
        name=f"sampler/{name}",
        op="sample",
        holds=f"{len(want)} tokens: {', '.join(settings) or 'no mask, no penalty'}.",
        given=given,
        expected={"probabilities": want},
        tolerance={"probabilities": _tolerance(row, want)},
        derivation="float64, step by step as tinymoe/sampler.py says. Tolerance: for float32, "
        "seven roundings of an exponent, exp to 3 units in the last place, sums of V in any order; "
        "no threshold is nearer to a token than 1e-4. Draws are not compared: no two engines "
        "share a random stream.",
        ties="top_k keeps all that equal the k-th; top_p drops the higher id first; greedy takes "
        "the lowest id",
    )


def _check_clear(row: Row, want: Array) -> None:
    s = row.sampling
    for sign in (-1, 1):
        top_p = min(s.top_p + sign * CLEAR, 1.0) if s.top_p < 1 else 1.0
        nudged = replace(s, top_p=top_p, min_p=s.min_p * (1 + sign * CLEAR))
        moved = masked_probabilities(*row._replace(sampling=nudged))
        assert ((moved > 0) == (want > 0)).all(), s


def _tolerance(row: Row, p: Array) -> Array:
    """As kernels/check_sample.py bounds float64, with float32's unit."""
    if row.sampling.temperature == 0:
        return np.zeros_like(p)
    blur = exponent_error(row._asdict()) * SHARE
    bound = p * (1 - p + len(p) * U) * np.expm1(2 * blur)
    return bound + gamma(2 * (len(p) + EXP) + 4, U) * (p + bound)

"""Vectors of the router: every family's card, and the inputs that found engines' bugs.

x is the identity, so that the logits are the matrix itself, turned: exact in every order of sums.
Logits are whole multiples of 1/64 or such, so that no choice hangs on a rounding: the ids are exact
where they are not a tie, and at a tie of equal numbers the lower id wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from tinymoe.cards import RouterCard
from tinymoe.core import NUMERICS, Array, Routing
from tinymoe.kernels.check_route import Choice, score_error, weights_and_error
from tinymoe.kernels.checks import Case
from tinymoe.model.router import drop_groups, route_logits
from tinymoe.oracle.vectors.router_cards import CARDS
from tinymoe.oracle.vectors.vector import Vector

FP32 = NUMERICS["fp32"]
ROWS = 6
DERIVATION = (
    "The five steps in float64 on the given logits. Tolerance: what float32 may do to each step in "
    "any order of sums, gamma(n) = n u / (1 - n u) with u = 2^-24: exp to within 3 units in the "
    "last place, sums of E, a division, renormalisation, scale (kernels/check_route.py). Logits "
    "and ids have none."
)
TIES = "equal selection scores: the lower index; rows by weight descending, then by id"


def router_vectors() -> Iterator[Vector]:
    """All of them."""
    for family, card in CARDS.items():
        e, k = card.experts, card.top_k
        yield _drawn(family, card, f"The card of {family}, {k} of {e} experts, spread logits.")
    yield _all_negative()
    yield _groups_below_zero()
    yield _nan_row()
    yield _ties()
    yield _close_calls()
    yield _band()
    yield _tiny_scores()
    yield _fine_logits()
    yield _mixed_bias()
    yield _one_expert()
    yield _logit_bias()
    yield _other_steps()


def spread(rng: np.random.Generator, rows: int, experts: int, step: float = 1 / 64) -> Array:
    """Logits (T, E), no two of a row equal: multiples of `step` about 0."""
    whole = np.stack([rng.permutation(experts) for _ in range(rows)]) - experts // 2
    return (whole * step).astype(np.float32)


def _drawn(name: str, card: RouterCard, holds: str, **bias_range: float) -> Vector:
    """Logits and bias from the first seed with which every choice is clear."""
    for seed in count():
        rng = np.random.default_rng(seed)
        logits = spread(rng, ROWS, card.experts, max(1, 64 // card.experts) / 64)
        if card.weight_from == "sparsemixer":  # rivals lie within 2 % of each other
            logits = np.float32(8) + (logits - logits.min()) ** 2  # unlike gaps, unlike weights
        bias = None
        if card.selection_bias:
            low, high = bias_range.get("low", -0.25), bias_range.get("high", 0.25)
            bias = rng.uniform(low, high, card.experts).astype(np.float32)
        if clear(logits, bias, card):
            return of_logits(f"router/{name}", holds, logits, bias, card)
    raise AssertionError


def clear(logits: Array, bias: Array | None, card: RouterCard) -> bool:
    """Whether no float32 implementation may choose or order otherwise, but for exact ties."""
    logits64 = logits.astype(np.float64)
    bias64 = None if bias is None else bias.astype(np.float64)
    ref = route_logits(logits64, bias64, card)
    blur = score_error(logits64, ref.scores, card.score, FP32)
    choice = Choice.of(logits64, ref.scores, blur, bias64, FP32)
    error = choice.error.max()
    value = choice.value
    if card.groups_kept < card.groups:
        members = np.sort(value.reshape(len(value), card.groups, -1), axis=-1)
        best = members[..., -1] if card.group_score == "max" else members[..., -2:].sum(axis=-1)
        ranked = np.sort(best, axis=-1)[:, ::-1]
        if (ranked[:, card.groups_kept - 1] - ranked[:, card.groups_kept] <= 8 * error).any():
            return False
        value = drop_groups(value, card)
    for t in range(len(value)):
        order = np.argsort(-value[t], kind="stable")
        chosen, left = order[: card.top_k], order[card.top_k :]
        near = value[t, chosen][:, None] - value[t, left] <= 4 * error
        same = choice.key[t, chosen][:, None] == choice.key[t, left]
        if (near & ~same).any():
            return False
    _, allowed = weights_and_error(ref, ref.ids, blur, card, FP32)
    gaps, room = -np.diff(ref.weights), allowed[:, 1:] + allowed[:, :-1]
    keys = np.take_along_axis(logits64, ref.ids, axis=-1)
    return bool(((gaps > room) | (np.diff(keys) == 0)).all())


def of_logits(
    name: str,
    holds: str,
    logits: Array,
    bias: Array | None,
    card: RouterCard,
    *,
    logit_bias: Array | None = None,
    nan_row: int | None = None,
) -> Vector:
    """The vector whose router gives these logits (T, E)."""
    x = np.eye(len(logits), dtype=np.float32)
    given: Case = {"x": x, "weight": np.ascontiguousarray(logits.T), "bias": bias}
    given |= {"card": card, "numerics": FP32}
    total = logits.astype(np.float64)
    if logit_bias is not None:
        given["logit_bias"] = logit_bias
        total = total + logit_bias
    if nan_row is not None:
        x[nan_row, nan_row] = np.nan
        total[nan_row] = np.nan
    with np.errstate(invalid="ignore"):
        ref = route_logits(total, None if bias is None else bias.astype(np.float64), card)
        blur = score_error(total, ref.scores, card.score, FP32)
        _, allowed = weights_and_error(ref, ref.ids, blur, card, FP32)
    assert np.array_equal(total.astype(np.float32), total, equal_nan=True)  # exact logits
    return Vector(
        name=name,
        op="route",
        holds=holds,
        given=given,
        expected=_expected(ref),
        tolerance={"scores": np.nan_to_num(blur), "weights": np.nan_to_num(allowed)},
        derivation=DERIVATION,
        ties=TIES,
    )


def _expected(ref: Routing) -> dict[str, Array]:
    return {
        "logits": ref.logits.astype(np.float32),
        "scores": ref.scores,
        "ids": ref.ids,
        "weights": ref.weights,
    }


def _checked(name: str, holds: str, logits: Array, bias: Any, card: RouterCard) -> Vector:
    assert clear(logits, bias, card), name
    return of_logits(name, holds, logits, bias, card)


def _all_negative() -> Vector:
    logits = spread(np.random.default_rng(0), ROWS, 32) - np.float32(8)
    holds = "Every logit is below 0: a search that starts from 0 finds none (flashinfer#2822)."
    return _checked("router/all-negative", holds, logits, None, CARDS["gpt_oss"])


def _groups_below_zero() -> Vector:
    holds = (
        "Scores plus bias are below 0 everywhere: an expert of a dropped group that is masked with "
        "0 beats them all (vllm#13474)."
    )
    card = replace(CARDS["deepseek_v3"], experts=64)
    return _drawn("groups-below-zero", card, holds, low=-3.0, high=-2.0)


def _nan_row() -> Vector:
    logits = spread(np.random.default_rng(1), ROWS, 128)
    holds = (
        "Row 2 is NaN: experts 0 .. K-1, each once, with weights NaN (vllm#39288: the same expert "
        "twice, then an illegal memory access); the other rows know nothing of it."
    )
    card = CARDS["qwen3_moe"]
    return of_logits("router/nan-row", holds, logits, None, card, nan_row=2)


def _ties() -> Vector:
    """The K-th and the next are equal; in the last rows all are."""
    rng, card = np.random.default_rng(2), CARDS["qwen3_moe"]
    logits = np.stack([rng.permutation(np.arange(128) // 5 - 12) for _ in range(ROWS)]) / 8
    logits[-1] = 0.5
    holds = (
        "Five experts each share a logit, so that the cut to 8 falls among equals; all are equal "
        "in the last row (vllm#52679)."
    )
    return _checked("router/ties", holds, logits.astype(np.float32), None, card)


def _close_calls() -> Vector:
    """Scores are the logits: exact in float32, so that 2^-20 is a clear difference."""
    logits = np.zeros((ROWS, 32), np.float32)
    for t in range(ROWS):
        logits[t] = 1 - (np.arange(32) * (2 * t + 3) % 32) / np.float32(8)
        logits[t, 24 + t] = 2
        logits[t, t] = 2 + 2.0**-20
        logits[t, t + 8 : t + 11] = 3, 4, 5  # four are chosen: these, and expert t
    holds = (
        "The last one chosen is 2^-20 above one of higher index, in scores that float32 holds "
        "exactly: an index added to break ties turns it round (sglang#31768)."
    )
    return _checked("router/close-calls", holds, logits, None, CARDS["gpt_oss"])


def _band() -> Vector:
    holds = (
        "Biases from 6.817 to 7.063, nine values in bf16: rounded, they choose others "
        "(sglang#31213)."
    )
    return _drawn("narrow-band", CARDS["minimax_m2"], holds, low=6.817, high=7.063)


def _tiny_scores() -> Vector:
    """Logits near -20: scores near 2e-9, below the last bit of a bias of 7."""
    rng, card = np.random.default_rng(4), CARDS["glm4_moe"]
    bias = (7 + rng.permutation(160) / 512).astype(np.float32)
    logits = spread(rng, ROWS, 160) - np.float32(20)
    holds = (
        "Scores of some 1e-9 under biases of 7: the biases choose, the scores weigh. "
        "(score + bias) - bias is 0, and 0 / 0 follows (vllm#47367)."
    )
    return _checked("router/tiny-scores", holds, logits, bias, card)


def _fine_logits() -> Vector:
    rng = np.random.default_rng(7)
    logits = spread(rng, ROWS, 64, 2.0**-8) + np.float32(5)
    holds = (
        "Logits near 5 that are 2^-8 apart, of which bf16 makes eight values: kept in it, they "
        "choose others (sglang#29783)."
    )
    return _checked("router/fine-logits", holds, logits, None, CARDS["hunyuan_v1_moe"])


def _mixed_bias() -> Vector:
    holds = (
        "Biases of both signs and large against the scores: a bias in the weights (vllm#12002) or "
        "a negative one cut to 0 (flashinfer#2168) is far off."
    )
    card = replace(CARDS["ernie4_5_moe"], experts=32)
    return _drawn("mixed-bias", card, holds, low=-0.5, high=0.5)


def _one_expert() -> Vector:
    rng, card = np.random.default_rng(5), replace(CARDS["mixtral"], top_k=1, renormalise=False)
    holds = (
        "One expert per token, its softmax score not renormalised: each weight is its own row's, "
        "no matter what the batch holds (megablocks#87)."
    )
    return _checked("router/one-expert", holds, spread(rng, ROWS, 8, 1 / 4), None, card)


def _logit_bias() -> Vector:
    rng, card = np.random.default_rng(6), CARDS["gpt_oss"]
    bias = (rng.permutation(32) * 2.0 - 31.0).astype(np.float32) / 32
    logits = spread(rng, ROWS, 32)
    holds = "The router's linear layer has a bias, part of the logits (flashinfer#3423)."
    assert clear(logits + bias, None, card)
    return of_logits("router/logit-bias", holds, logits, None, card, logit_bias=bias)


def _other_steps() -> Vector:
    card = replace(CARDS["mixtral"], experts=16, top_k=4, score="sigmoid", scale=1.5)
    return _drawn("sigmoid-plain", card, "Sigmoids without bias and groups, renormalised, scaled.")

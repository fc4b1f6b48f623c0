"""The check of `route`: each step judged on the implementation's own result of the step before.

Logits to a bound; scores to a bound, given those logits; ids and their order exactly; weights
to a bound, given logits and ids; the margin to a bound.

Ids may differ from the definition's for one reason: scores that rounding cannot tell apart (the
margin rule). A tie of equal logits and equal biases is no such excuse: every implementation sees
the same numbers twice, and the lower id wins (vllm#52679, sglang#31768).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from tinymoe.core import Array, Numerics, RouterCard, Routing
from tinymoe.kernels.bounds import (
    EXP,
    UNIT,
    compare,
    expect_array,
    gamma,
    settle,
    sums_exactly,
    tiny,
    unit,
    wide,
)
from tinymoe.model import router
from tinymoe.model.precision import linear_unrounded

NONE_KEPT = -1  # stands for the key of an expert in a dropped group


def check_route(case: dict[str, Any], got: Any) -> None:
    """AssertionError unless `got` is a correct `Routing` of the case."""
    card, numerics, bias = case["card"], case["numerics"], case["bias"]
    for field in Routing._fields:
        if not hasattr(got, field):
            raise AssertionError(f"route: expected a Routing, got {type(got).__name__}")
    _check_logits(case, got.logits)
    logits = wide(got.logits)  # (T, E)
    wide_bias = None if bias is None else wide(bias)
    ref = router.route_logits(logits, wide_bias, card)
    with np.errstate(invalid="ignore"):  # a row of NaN
        blur = score_error(logits, ref.scores, card.score, numerics)
    compare("route: scores", got.scores, ref.scores, blur, numerics.dtype)
    _check_ids(got, ref, card)
    choice = Choice.of(logits, ref.scores, blur, wide_bias, numerics)
    ambiguous = [
        _check_choice(t, got.ids[t], ref.ids[t], choice.row(t), card, numerics)
        for t in range(len(logits))
    ]
    _check_weights(got, ref, blur, card, numerics)
    _check_margin(got.margin, ref.margin, choice, np.array(ambiguous, bool), numerics)


def _check_logits(case: dict[str, Any], got: Any) -> None:
    """As `linear`, rounded to the type that numerics and card keep the logits in."""
    card, numerics = case["card"], case["numerics"]
    x, weight, kept = wide(case["x"]), wide(case["weight"]), numerics.router_logits
    if kept == "card":
        kept = numerics.storage if card.logits_dtype == "model" else "float32"
    bias = case.get("logit_bias")
    bias = np.zeros(len(weight)) if bias is None else wide(bias)
    exact = linear_unrounded(x, weight, bias)
    size = linear_unrounded(np.abs(x), np.abs(weight), np.abs(bias))
    good = ~np.isnan(x).any(axis=1)
    is_exact = sums_exactly(x[good], weight, size[good].max(initial=0), numerics, bias)
    bound = gamma(x.shape[1] + 1, unit(numerics)) * size + tiny(numerics)
    want, allowed = settle(exact, bound, is_exact, replace(numerics, storage=kept))
    compare("route: logits", got, want, allowed, numerics.dtype)


def softmax_error(logits: Array, p: Array, numerics: Numerics) -> Array:
    """How far p = softmax(logits) may be off when computed in `numerics.accumulate`.

    Taking the maximum m off moves an exponent by u |x - m|; exp, the sum of E terms (each with
    its own share of the first two), and the division are relative: gamma(2 EXP + E + 3).
    """
    u = unit(numerics)
    shift = np.expm1(u * (logits.max(axis=-1, keepdims=True) - logits))  # (T, E)
    divisor = (p * shift).sum(axis=-1, keepdims=True)
    relative = (1 + shift) * (1 + gamma(2 * EXP + logits.shape[-1] + 3, u)) / (1 - divisor) - 1
    error: Array = _with_own(p * relative, numerics) + tiny(numerics)
    return error


def score_error(logits: Array, scores: Array, kind: str, numerics: Numerics) -> Array:
    """The bound of step 1, (T, E). Sigmoid: exp, 1 + e, a division. Identity: none."""
    if kind == "identity":
        return np.zeros_like(scores)
    if kind == "softmax":
        return softmax_error(logits, scores, numerics)
    relative = gamma(2 * EXP + 3, unit(numerics))
    error: Array = _with_own(scores * relative, numerics) + tiny(numerics)
    return error


def _with_own(error: Array, numerics: Numerics) -> Array:
    """The float64 reference's share on top."""
    return error * (1 + UNIT["float64"] / unit(numerics))


class Choice(NamedTuple):
    """What selection goes by, of T tokens or of one: values, their error, and what made them."""

    value: Array  # (T, E) score plus bias
    error: Array  # (T, E)
    key: Array  # (T, E) equal where logit and bias are equal: a tie in every implementation

    @classmethod
    def of(
        cls, logits: Array, scores: Array, blur: Array, bias: Array | None, numerics: Numerics
    ) -> Choice:
        """The bias adds one rounding, and none where score and sum are exact."""
        key = logits + 0j if bias is None else logits + 1j * bias
        if bias is None:
            return cls(scores, blur, key)
        value = scores + bias
        exact = (blur == 0) & (value.astype(numerics.dtype) == value)
        error = blur + unit(numerics) * (np.abs(value) + blur)
        return cls(value, np.where(exact, 0, _with_own(error, numerics)), key)

    def row(self, t: int) -> Choice:
        """One token's."""
        return Choice(self.value[t], self.error[t], self.key[t])

    def blurred(self, i: int, j: int) -> bool:
        """Whether a correct implementation may put i before j, which the definition does not."""
        if self.key[i] == self.key[j]:
            return False
        return bool(self.value[j] - self.value[i] <= self.error[i] + self.error[j])


def _check_ids(got: Any, ref: Routing, card: RouterCard) -> None:
    """Shape, range, distinct, and each row by weight descending, then id."""
    expect_array("route: ids", got.ids, ref.ids.shape, np.int64)
    expect_array("route: weights", got.weights, ref.ids.shape)
    for t, (ids, weights) in enumerate(zip(got.ids, got.weights, strict=True)):
        if len(set(ids.tolist())) < card.top_k or ids.min() < 0 or ids.max() >= card.experts:
            raise AssertionError(
                f"route: ids[{t}]: got {ids.tolist()}, expected {card.top_k} distinct experts "
                f"from 0 to {card.experts - 1}"
            )
        in_order = np.lexsort((ids, -weights))
        if (in_order != np.arange(card.top_k)).any():
            raise AssertionError(
                f"route: ids[{t}]: got {ids.tolist()} with weights {weights.tolist()}, expected "
                "them by weight descending, then id"
            )


def _check_choice(
    t: int, got: Array, want: Array, choice: Choice, card: RouterCard, numerics: Numerics
) -> bool:
    """Whether the group cut is ambiguous; AssertionError if the ids are wrong by any reading."""
    chosen = {int(i) for i in got}
    limited = card.groups_kept < card.groups
    kept_sets = _kept_sets(choice, card, numerics) if limited else [None]
    if chosen == {int(i) for i in want}:
        return len(kept_sets) > 1
    pairs: list[str] = []
    for kept in kept_sets:
        masked = choice if kept is None else _masked(choice, kept, card)
        ranked = np.argsort(-masked.value, kind="stable")
        right = {int(i) for i in ranked[: card.top_k]}
        pairs = [
            f"{i} for {j} (selection scores {masked.value[i]:.9g} and {masked.value[j]:.9g}, "
            f"rounding explains {masked.error[i] + masked.error[j]:.3g})"
            for i in sorted(chosen - right)
            for j in sorted(right - chosen)
            if not masked.blurred(i, j)
        ]
        if not pairs:
            return len(kept_sets) > 1
    raise AssertionError(
        f"route: ids[{t}]: got {sorted(chosen)}, expected {sorted(int(i) for i in want)}: "
        + "; ".join(pairs[:3])
    )


def _masked(choice: Choice, kept: tuple[int, ...], card: RouterCard) -> Choice:
    """The experts of dropped groups get the card's mask, which is exact and the same for all."""
    group = np.arange(card.experts) // (card.experts // card.groups)
    inside = np.isin(group, kept) | np.isnan(choice.value)
    mask = -np.inf if card.dropped_group == "-inf" else 0.0
    return Choice(
        np.where(inside, choice.value, mask),
        np.where(inside, choice.error, 0),
        np.where(inside, choice.key, complex(np.inf, NONE_KEPT)),
    )


def _kept_sets(choice: Choice, card: RouterCard, numerics: Numerics) -> list[tuple[int, ...]]:
    """Every set of groups that a correct implementation may keep: one, unless ratings nearly tie.

    A group's rating is its best member, or the sum of its two best (one more rounding).
    """
    groups = _ratings(choice, card, numerics)
    ranked = [int(g) for g in np.argsort(-groups.value, kind="stable")]
    first, others = ranked[: card.groups_kept], ranked[card.groups_kept :]
    loose_in = [g for g in first if any(groups.blurred(o, g) for o in others)]
    loose_out = [o for o in others if any(groups.blurred(o, g) for g in first)]
    sure = [g for g in first if g not in loose_in]
    return [(*sure, *some) for some in combinations([*loose_in, *loose_out], len(loose_in))]


def _ratings(choice: Choice, card: RouterCard, numerics: Numerics) -> Choice:
    """The groups as things to choose from, (G,) each; groups with equal best members tie."""
    size, best = card.experts // card.groups, 1 if card.group_score == "max" else 2
    labels: dict[tuple[str, ...], int] = {}
    rows = []
    for start in range(0, card.experts, size):
        top = start + np.argsort(-choice.value[start : start + size], kind="stable")[:best]
        rating, error = choice.value[top].sum(), choice.error[top].sum()
        if error or rating.astype(numerics.dtype) != rating:
            error += unit(numerics) * (abs(rating) + error)
        members = tuple(sorted(str(key) for key in choice.key[top]))
        rows.append((rating, error, labels.setdefault(members, len(labels))))
    value, errors, keys = (np.array(column) for column in zip(*rows, strict=True))
    return Choice(value, errors, keys)


def _check_weights(
    got: Any, ref: Routing, blur: Array, card: RouterCard, numerics: Numerics
) -> None:
    """The implementation's weights against the definition's of the implementation's own ids."""
    want, allowed = weights_and_error(ref, got.ids, blur, card, numerics)
    compare("route: weights", got.weights, want, allowed, numerics.dtype)


def weights_and_error(
    ref: Routing, ids: Array, blur: Array, card: RouterCard, numerics: Numerics
) -> tuple[Array, Array]:
    """The definition's weights (T, K) of given ids, and how far correct ones may be from them.

    `ref`: a routing in float64; `blur` (T, E): how far its scores may be off.
    """
    chosen = router.pick(ref.logits, ids)  # (T, K)
    place = np.argsort(np.argsort(ids, axis=-1), axis=-1)  # of each id in ascending order
    by_id = router.gather(ref.logits, ref.scores, np.sort(ids, axis=-1), card)  # as the steps do
    weights = router.pick(by_id, place)
    if card.weight_from == "score":
        error = router.pick(blur, ids)
    elif card.weight_from == "sparsemixer":  # 1 over a sum of powers; who is a rival is exact
        error = _with_own(weights * gamma(2 * EXP + card.experts + 3, unit(numerics)), numerics)
    elif card.weight_from == "softmax_of_chosen":
        error = softmax_error(chosen, weights, numerics)
    else:
        error = score_error(chosen, weights, "sigmoid", numerics)
    if card.renormalise:
        error = renorm_error(weights, error, card, numerics)
        weights = router.renorm(weights, card)
    want = router.scale(weights, card)
    # the factor, its rounding to the type, and the product
    error = abs(card.scale) * error + _with_own(gamma(2, unit(numerics)) * np.abs(want), numerics)
    return want, error + tiny(numerics)


def renorm_error(weights: Array, error: Array, card: RouterCard, numerics: Numerics) -> Array:
    """|w'/t' - w/t| <= (e + |w/t| e_t) / (t - e_t), and one rounding; inf if t may be zero.

    The sum t of K weights and epsilon: e_t = the weights' errors + gamma(K + 1) of the terms.
    """
    u, k = unit(numerics), weights.shape[-1]
    terms = np.abs(weights).sum(axis=-1, keepdims=True) + card.renorm_epsilon
    off = error.sum(axis=-1, keepdims=True)
    off = off + _with_own(gamma(k + 1, u) * (terms + card.renorm_floor), numerics)
    total = weights.sum(axis=-1, keepdims=True) + card.renorm_epsilon
    total = np.maximum(total, card.renorm_floor)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.abs(weights / total)
        moved = np.where(total > off, (error + quotient * off) / (total - off), np.inf)
    bound: Array = moved + _with_own(u * (quotient + moved), numerics)
    return bound


def _check_margin(
    got: Any, want: Array, choice: Choice, ambiguous: Array, numerics: Numerics
) -> None:
    """The k-th largest of E numbers moves by no more than the most that one of them moves."""
    most = np.where(np.isfinite(choice.error), choice.error, 0).max(axis=-1)
    bound = 2 * most + _with_own(unit(numerics) * np.abs(want), numerics) + tiny(numerics)
    bound = np.where(ambiguous, np.inf, bound)
    with np.errstate(invalid="ignore"):  # inf * inf where K takes all that may be chosen
        compare("route: margin", got, want, bound, numerics.dtype)

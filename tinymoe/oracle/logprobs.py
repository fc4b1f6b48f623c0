"""Is an engine's distribution ours? From the few log-probabilities that it tells.

An engine lists, for each position, the log-probabilities of some tokens: the one that follows and
the likeliest. The Kullback-Leibler divergence of the whole distributions cannot be had from that,
but a bound from below can: lump all tokens that are not listed together as one. Lumping can only
lose divergence (the data-processing inequality), so

    KL(ours || theirs) >= sum over listed t of p_t log(p_t / q_t) + p_rest log(p_rest / q_rest)

Three runs judge: exact (float64), emulated (the numerics that the engine says it has), theirs. The
emulated run's divergence from the exact one is what the format itself costs. The engine's
rounding errors are another draw of the same kind: its logits are off by amounts of the same size,
and the divergence grows with their square. A mean over all positions is allowed 4 times the
emulated mean (errors of twice the size), the worst position 16 times the emulated worst (four
times the size: a maximum over few positions is a noisy figure, and a near tie in a router that
falls the other way in one of the runs is the largest error there is).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tinymoe.core import Array, TinymoeError

MEAN_ALLOWED, WORST_ALLOWED = 4.0, 16.0
# Below this, in nats, nothing can be told: log-probabilities come as text of some seven digits, and
# a probability near 1 leaves a rest of which float32 knows about 1e-6.
FLOOR = 1e-6
_TOO_MUCH = 1.01  # a sum of probabilities above this is not rounding


def log_softmax(logits: Array) -> Array:
    """Natural log-probabilities of logits (..., V), in float64; the maximum goes off first."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def divergence_bound(ours: Array, listed: Mapping[int, float]) -> float:
    """At least KL(ours || theirs), in nats: ours (V,) log-probabilities, listed: id -> theirs.

    inf where they give no chance to a token that has one. What is left over for the rest is
    taken as at least FLOOR, which only lowers the bound.
    """
    ids = np.fromiter(listed, np.int64, len(listed))
    theirs = np.fromiter(listed.values(), np.float64, len(listed))
    p = np.exp(ours[ids])
    likely = p > 0  # 0 log 0 is 0
    terms = p[likely] * (ours[ids] - theirs)[likely]
    rest_p = max(1.0 - p.sum(), 0.0)
    rest_q = max(1.0 - np.exp(theirs).sum(), FLOOR)
    rest = rest_p * np.log(rest_p / rest_q) if rest_p > FLOOR else 0.0
    return max(float(terms.sum() + rest), 0.0)


class Position(NamedTuple):
    """One position of one prompt: the prediction of the token that follows it."""

    prompt: int
    position: int  # of the token that was predicted
    bound: float  # on the divergence of theirs from exact
    emulated: float  # the same of the emulated run, over the same tokens
    ours_best: int  # likeliest token of the exact run
    theirs_best: int  # likeliest that they listed
    margin: float  # nats between ours_best and theirs_best, in the exact run; 0 where they agree
    noise: float  # nats by which the emulated run is off on these two


class Verdict(NamedTuple):
    """The judgement over all positions."""

    agrees: bool
    mean: float
    mean_allowed: float
    worst: Position
    worst_allowed: float
    top1_same: int  # positions whose likeliest token is the same
    top1_ties: int  # others, where the emulated run's own error covers the margin
    top1_wrong: int  # others
    positions: int
    resembles: str | None  # what the engine's numbers look like instead


def compare_position(
    where: tuple[int, int], exact: Array, emulated: Array, listed: Mapping[int, float]
) -> Position:
    """Exact and emulated log-probabilities (V,) against what an engine listed."""
    vocabulary = len(exact)
    if not listed or min(listed) < 0 or max(listed) >= vocabulary:
        raise TinymoeError(
            f"prompt {where[0]}, position {where[1]}: expected token ids from 0 to "
            f"{vocabulary - 1}, the model's vocabulary; the engine listed {sorted(listed)[:8]}"
        )
    total = float(np.exp(list(listed.values())).sum())
    if not total <= _TOO_MUCH:  # NaN too
        raise TinymoeError(
            f"prompt {where[0]}, position {where[1]}: the engine's probabilities add up to "
            f"{total:.4g}: they are no log-probabilities of one softmax"
        )
    ours_best = int(exact.argmax())
    theirs_best = max(listed, key=lambda token: (listed[token], token == ours_best))
    margin = float(exact[ours_best] - exact[theirs_best])
    off = emulated - exact
    return Position(
        *where,
        divergence_bound(exact, listed),
        divergence_bound(exact, {token: float(emulated[token]) for token in listed}),
        ours_best,
        theirs_best,
        margin,
        float(abs(off[ours_best] - off[theirs_best])),
    )


def judge(
    exact: Sequence[Array],
    emulated: Sequence[Array],
    listed: Sequence[Sequence[Mapping[int, float]]],
) -> Verdict:
    """All prompts: of each, log-probabilities (T, V) of the two runs and T - 1 listings.

    Row t of a run predicts token t + 1, and so does listing t.
    """
    found = [
        compare_position((number, t + 1), exact[number][t], emulated[number][t], entries[t])
        for number, entries in enumerate(listed)
        for t in range(len(entries))
    ]
    if not found:
        raise TinymoeError("no position to compare: prompts need at least two tokens")
    bounds = np.array([position.bound for position in found])
    costs = np.array([position.emulated for position in found])
    mean_allowed = MEAN_ALLOWED * max(float(costs.mean()), FLOOR)
    worst_allowed = WORST_ALLOWED * max(float(costs.max()), FLOOR)
    worst = found[int(bounds.argmax())]
    others = [position for position in found if position.margin > 0]
    # An engine's error on a difference is another draw of the emulated run's, up to 4 times it.
    slack = 4 * max(max((position.noise for position in found), default=0.0), FLOOR)
    ties = sum(position.margin <= slack for position in others)
    agrees = bool(bounds.mean() <= mean_allowed and worst.bound <= worst_allowed)
    return Verdict(
        agrees,
        float(bounds.mean()),
        mean_allowed,
        worst,
        worst_allowed,
        len(found) - len(others),
        ties,
        len(others) - ties,
        len(found),
        None if agrees else resemblance(exact, listed, mean_allowed),
    )


def resemblance(
    exact: Sequence[Array], listed: Sequence[Sequence[Mapping[int, float]]], allowed: float
) -> str | None:
    """A simple change of our numbers that explains theirs: what is left is then `allowed`.

    Tried: predictions one position late or early, and log-probabilities at another temperature.
    """
    for shift, says in (
        (-1, "one position late: entry t is our prediction of token t - 1"),
        (1, "one position early: entry t is our prediction of token t + 1"),
    ):
        left = [
            divergence_bound(exact[n][t + shift], entries[t])
            for n, entries in enumerate(listed)
            for t in range(len(entries))
            if 0 <= t + shift < len(exact[n])
        ]
        if left and np.mean(left) < allowed:
            return says
    temperature = _fitted_temperature(exact, listed)
    if temperature is not None:
        cooled = [log_softmax(row / temperature) for row in exact]
        left = [
            divergence_bound(cooled[n][t], entries[t])
            for n, entries in enumerate(listed)
            for t in range(len(entries))
        ]
        if np.mean(left) < allowed:
            return (
                f"at temperature {temperature:.3g}: log-probabilities after the sampling "
                "settings were applied, not before (vLLM: --logprobs-mode raw_logprobs)"
            )
    return None


def _fitted_temperature(
    exact: Sequence[Array], listed: Sequence[Sequence[Mapping[int, float]]]
) -> float | None:
    """Least squares: differences of log-probabilities at temperature T are ours divided by T."""
    ours, theirs = [], []
    for number, entries in enumerate(listed):
        for t, entry in enumerate(entries):
            finite = {token: value for token, value in entry.items() if np.isfinite(value)}
            first = max(finite, key=finite.__getitem__, default=None)
            if first is None:
                continue
            row = exact[number][t]
            ours += [row[token] - row[first] for token in finite]
            theirs += [value - finite[first] for value in finite.values()]
    a, b = np.array(ours), np.array(theirs)
    slope = float(a @ b) / float(a @ a) if len(a) and a.any() else 0.0
    return 1.0 / slope if slope > 0 else None

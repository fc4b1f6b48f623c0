"""Vectors of the ops that carry a state from token to token, exact in float32.

Keys and queries of three ones and a zero, with eps 1, have the length 2; decays are 0 or so large
that nothing is left; all else is a whole number or a quarter of one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinymoe.core import NUMERICS, Array
from tinymoe.oracle.vectors.vector import Vector

FP32 = NUMERICS["fp32"]
T, Nk, Nv, Dk, Dv = 6, 2, 4, 4, 3
WHOLE = (
    "The recurrence in float64, token by token, on numbers of which every product and sum is "
    "exact in float32: no tolerance, in any order of sums."
)


def carried_vectors() -> Iterator[Vector]:
    """All of them."""
    yield _causal_conv()
    yield _gated_delta()
    yield _lightning()


def _causal_conv() -> Vector:
    rng = np.random.default_rng(0)
    x, before = (rng.integers(1, 4, (rows, 5)).astype(np.float64) for rows in (T, 3))
    weight = rng.choice([8.0, 9.0, 10.0], (5, 4))
    weight[[1, 3]] *= -8  # sums of at most -104, of which silu is 0
    joined = np.concatenate([before, x])
    out = np.zeros((T, 5))
    for t, c, tap in np.ndindex(T, 5, 4):
        out[t, c] += joined[t + tap, c] * weight[c, tap]
    assert ((out >= 18) | (out <= -104)).all()
    return Vector(
        name="carried/causal-conv",
        op="causal_conv",
        holds="Six tokens after three others, four taps: the oldest input meets the first.",
        given=_narrow(x=x, weight=weight, before=before),
        expected={"out": np.maximum(out, 0), "state": joined[T:]},
        derivation="Whole numbers; sums are at least 18 or at most -104, where silu in float32 is "
        "the sum itself or 0. No tolerance.",
    )


def _heads(rng: np.random.Generator) -> Array:
    """(T, Nk, Dk): three ones with signs, and a zero, by turns."""
    found = rng.choice([-1.0, 1.0], (T, Nk, Dk))
    for t, h in np.ndindex(T, Nk):
        found[t, h, (t + 2 * h) % Dk] = 0
    return found


def _gated_delta() -> Vector:
    rng = np.random.default_rng(1)
    q, k = _heads(rng), _heads(rng)
    v = rng.integers(-8, 9, (T, Nv, Dv)).astype(np.float64)
    decay = np.zeros((T, Nv))
    decay[[2, 4], [0, 3]] = -200  # e^-200 is 0 in float32
    beta = rng.choice([0.25, 0.5, 1.0], (T, Nv))
    state = rng.integers(-4, 5, (Nv, Dv, Dk)).astype(np.float64)
    S, out = state.copy(), np.zeros((T, Nv, Dv))
    for t, h in np.ndindex(T, Nv):
        key, query = k[t, h // 2] / 2, q[t, h // 2] / 2 / 2  # length, and the root of Dk
        S[h] *= decay[t, h] == 0
        S[h] += np.outer(beta[t, h] * (v[t, h] - S[h] @ key), key)
        out[t, h] = S[h] @ query
    assert all((a == a.astype(np.float32)).all() for a in (S, out))
    given = _narrow(q=q, k=k, v=v, log_decay=decay, beta=beta, state=state)
    return Vector(
        name="carried/gated-delta",
        op="gated_delta",
        holds="Two value heads to a key head, a state from before, two heads that forget all once.",
        given={**given, "eps": 1.0},
        expected={"out": out, "state": S},
        derivation=WHOLE,
    )


def _lightning() -> Vector:
    rng = np.random.default_rng(2)
    q, k, v = (rng.integers(-3, 4, (T, 3, Dk)).astype(np.float64) for _ in range(3))
    keep, state = np.array([1.0, 0.5, 0.25]), rng.integers(-4, 5, (3, Dk, Dk)).astype(np.float64)
    S, out = state.copy(), np.zeros((T, 3, Dk))
    for t, h in np.ndindex(T, 3):
        S[h] = keep[h] * S[h] + np.outer(v[t, h], k[t, h])
        out[t, h] = S[h] @ q[t, h]
    assert all((a == a.astype(np.float32)).all() for a in (S, out))
    return Vector(
        name="carried/lightning",
        op="lightning",
        holds="Three heads that keep all, a half and a quarter, and a state from before.",
        given=_narrow(q=q, k=k, v=v, keep=keep, state=state),
        expected={"out": out, "state": S},
        derivation=WHOLE,
    )


def _narrow(**arrays: Array) -> dict[str, object]:
    return {**{name: a.astype(np.float32) for name, a in arrays.items()}, "numerics": FP32}

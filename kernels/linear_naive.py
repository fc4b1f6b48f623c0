"""The naive twins of the ops that carry a state: one token, one head, one channel at a time."""

from __future__ import annotations

import numpy as np

from tinymoe.core import Array, Numerics
from tinymoe.model.linear_attention import (
    Carried,
    causal_conv_naive,
    gated_delta_naive,
    lightning_naive,
)
from tinymoe.model.precision import store


def causal_conv(x: Array, weight: Array, before: Array, numerics: Numerics) -> Carried:
    """Each output from a list of its own inputs."""
    out, taps = np.empty_like(x), weight.shape[1]
    history = [*before, *x]
    for t, c in np.ndindex(*x.shape):
        inputs = [float(row[c]) for row in history[t : t + taps]]
        out[t, c] = causal_conv_naive(inputs, weight[c].tolist())
    kept = np.array(history[len(x) :], numerics.dtype).reshape(before.shape)
    return Carried(store(out, numerics.storage), kept)


def gated_delta(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array,
    beta: Array,
    state: Array,
    eps: float,
    numerics: Numerics,
) -> Carried:
    """Head by head, token by token; value head h has the queries and keys of h // (Nv / Nk)."""
    out, new, group = np.empty_like(v), np.empty_like(state), v.shape[1] // k.shape[1]
    for h in range(v.shape[1]):
        matrix, own = state[h].tolist(), h // group
        for t in range(len(v)):
            rows = (q[t, own].tolist(), k[t, own].tolist(), v[t, h].tolist())
            gates = (float(log_decay[t, h]), float(beta[t, h]))
            out[t, h], matrix = gated_delta_naive(*rows, *gates, matrix, eps)
        new[h] = matrix
    return Carried(store(out, numerics.storage), new)


def lightning(
    q: Array, k: Array, v: Array, keep: Array, state: Array, numerics: Numerics
) -> Carried:
    """Head by head, token by token."""
    out, new = np.empty_like(v), np.empty_like(state)
    for h in range(v.shape[1]):
        matrix = state[h].tolist()
        for t in range(len(v)):
            rows = (q[t, h].tolist(), k[t, h].tolist(), v[t, h].tolist())
            out[t, h], matrix = lightning_naive(*rows, float(keep[h]), matrix)
        new[h] = matrix
    return Carried(store(out, numerics.storage), new)

"""Attention with a state of fixed size: what a sequence has seen, folded into one matrix a head.

Token by token is the definition. The chunked forms that engines run are other orders of the same
sums; here a sequence may be split anywhere, as a token's numbers come from the state before it
and its own row alone.

    S <- e^g S;  S <- S + beta (v - S k) k'      gated delta rule, k and q of length 1 (Qwen3-Next)
    S <- e^-lambda S + v k'                      lightning attention (MiniMax-01)
    o = S q

S (Dv, Dk) is kept in `numerics.accumulate`, never rounded to storage: it is a sum over all tokens
so far.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tinymoe.core import Array, Numerics
from tinymoe.model.experts import silu
from tinymoe.model.precision import array_module, store, vecdot


class Carried(NamedTuple):
    """Output of T tokens, and what the next token of the sequence starts from."""

    out: Array
    state: Array


def causal_conv(x: Array, weight: Array, before: Array, numerics: Numerics) -> Carried:
    """silu of a convolution over time, each channel by itself: x (T, C) -> (T, C).

    weight (C, kernel), the last tap is the token's own; before (kernel - 1, C): the inputs that
    precede x, oldest first, zeros at the start of a sequence. The new state is the same of the
    token after x. Products summed from the oldest tap to the newest in `numerics.accumulate`, one
    rounding to storage, after silu.
    """
    taps, xp = weight.shape[1], array_module(x)
    joined = xp.concatenate([before, x])  # (kernel - 1 + T, C)
    total = joined[: len(x)] * weight[:, 0]  # (T, C)
    for tap in range(1, taps):
        total = total + joined[tap : tap + len(x)] * weight[:, tap]
    return Carried(store(silu(total), numerics.storage), joined[len(x) :].copy())


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
    """T tokens of one sequence by the gated delta rule: out (T, Nv, Dv).

    q, k (T, Nk, Dk), of which Nv / Nk consecutive value heads share one; v (T, Nv, Dv); log_decay
    (T, Nv), at most 0; beta (T, Nv); state (Nv, Dv, Dk).

    First q and k are divided by sqrt(sum of squares + eps), q by sqrt(Dk) besides. Sums over Dk
    in the order of the BLAS dot product; all in `numerics.accumulate`, the output alone rounded
    to storage. A state that forgets before it reads (S k of the state that has not decayed yet)
    is another function.
    """
    group = v.shape[1] // k.shape[1]
    xp = array_module(q)
    q, k = unit_length(q, eps) * q.shape[-1] ** -0.5, unit_length(k, eps)
    q, k = xp.repeat(q, group, axis=1), xp.repeat(k, group, axis=1)  # (T, Nv, Dk)
    keep = xp.exp(log_decay)[..., None, None]  # (T, Nv, 1, 1)
    state, out = state.copy(), xp.empty_like(v)
    for t in range(len(v)):
        state *= keep[t]
        found = vecdot(state, k[t][:, None])  # (Nv, Dv)
        change = beta[t][:, None] * (v[t] - found)  # (Nv, Dv)
        state += change[..., None] * k[t][:, None]
        out[t] = vecdot(state, q[t][:, None])
    return Carried(store(out, numerics.storage), state)


def unit_length(x: Array, eps: float) -> Array:
    """x (..., N) / sqrt(sum of squares + eps), unrounded; eps keeps a zero vector zero."""
    return x / array_module(x).sqrt(vecdot(x, x)[..., None] + eps)


def lightning(
    q: Array, k: Array, v: Array, keep: Array, state: Array, numerics: Numerics
) -> Carried:
    """T tokens of one sequence with a decay that is each head's own: out (T, Nq, Dv).

    q, k (T, Nq, Dk), v (T, Nq, Dv), keep (Nq,): e^-lambda; state (Nq, Dv, Dk). A token's own key
    is in the state before its query reads it, undecayed. No scale. Sums over Dk in the order of
    the BLAS dot product, in `numerics.accumulate`; the output alone is rounded to storage.
    """
    state, out = state.copy(), array_module(q).empty_like(v)
    for t in range(len(v)):
        state *= keep[:, None, None]
        state += v[t][..., None] * k[t][:, None]  # (Nq, Dv, Dk)
        out[t] = vecdot(state, q[t][:, None])
    return Carried(store(out, numerics.storage), state)


# ------------------------------------------------------------------------------- naive twins


def causal_conv_naive(x: list[float], weight: list[float]) -> float:
    """The twin: one channel's last `kernel` inputs, oldest first, to one number."""
    total = sum(a * w for a, w in zip(x, weight, strict=True))
    return total / (1 + math.exp(-total)) if total > -700 else 0.0  # e^700 is near the largest


Matrix = list[list[float]]


def gated_delta_naive(
    q: list[float],
    k: list[float],
    v: list[float],
    log_decay: float,
    beta: float,
    state: Matrix,
    eps: float,
) -> tuple[list[float], Matrix]:
    """The twin: one token of one value head; (out (Dv,), new state (Dv, Dk))."""
    q_size, k_size = (math.sqrt(sum(a * a for a in row) + eps) for row in (q, k))
    q = [a / q_size / math.sqrt(len(q)) for a in q]
    k = [a / k_size for a in k]
    new = []
    for row, value in zip(state, v, strict=True):
        faded = [math.exp(log_decay) * s for s in row]
        found = sum(s * a for s, a in zip(faded, k, strict=True))
        new.append([s + beta * (value - found) * a for s, a in zip(faded, k, strict=True)])
    return _read(new, q), new


def lightning_naive(
    q: list[float], k: list[float], v: list[float], keep: float, state: Matrix
) -> tuple[list[float], Matrix]:
    """The twin: one token of one head; (out (Dv,), new state (Dv, Dk))."""
    new = [
        [keep * s + value * a for s, a in zip(row, k, strict=True)]
        for row, value in zip(state, v, strict=True)
    ]
    return _read(new, q), new


def _read(state: Matrix, q: list[float]) -> list[float]:
    return [sum(s * a for s, a in zip(row, q, strict=True)) for row in state]

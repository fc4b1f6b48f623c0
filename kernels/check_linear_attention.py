"""The checks of the ops that carry a state: convolution, gated delta rule, lightning attention.

Output and new state are both judged. The bounds follow the recurrence token by token, so an error
that a state took in early is allowed for in all that comes after, as far as it can grow. Any order
of the sums inside a token's step keeps them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.core import NUMERICS, Array
from tinymoe.kernels.bounds import (
    EXP,
    compare,
    gamma,
    settle,
    tiny,
    unit,
    wide,
    with_reference,
)
from tinymoe.kernels.checks import SILU_SLOPE, Case
from tinymoe.model import linear_attention
from tinymoe.model.experts import silu

EXACT = NUMERICS["exact"]


def check_causal_conv(case: Case, got: Any) -> None:
    """A sum of `kernel` products, gamma(kernel) sum |x||w|, then silu as in `ffn_bound`.

    The new state is the last inputs, copied: no difference at all.
    """
    out, state = _pair("causal_conv", got)
    numerics, taps, tokens = case["numerics"], case["weight"].shape[1], len(case["x"])
    u, weight = unit(numerics), wide(case["weight"])
    joined = np.concatenate([wide(case["before"]), wide(case["x"])])  # (kernel - 1 + T, C)
    seen = np.stack([joined[tap : tap + tokens] for tap in range(taps)], axis=-1)  # (T, C, kernel)
    total, size = (seen * weight).sum(axis=-1), np.abs(seen * weight).sum(axis=-1)
    moved = SILU_SLOPE * (gamma(taps, u) * size + tiny(numerics))
    activated = silu(total)
    moved += gamma(EXP + 3, u) * (np.abs(activated) + moved) + tiny(numerics)
    want, allowed = settle(activated, moved, False, numerics)
    compare("causal_conv: out", out, want, allowed, numerics.dtype)
    compare("causal_conv: state", state, joined[tokens:], 0, numerics.dtype)


def check_gated_delta(case: Case, got: Any) -> None:
    """The recurrence with an error E beside every number of S.

    k / |k| is off by half of Dk + 1 roundings of the sum of squares and 5 more (as in rmsnorm), q
    by 2 besides for its scale. Then, each the first-order rule for a product or a sum:
    S' = e^g S (exp is EXP); found = S' k; change = beta (v - found); S = S' + change k; o = S q.
    """
    out, state = _pair("gated_delta", got)
    u, small = unit(case["numerics"]), tiny(case["numerics"])
    exact = {name: wide(case[name]) for name in ("q", "k", "v", "log_decay", "beta", "state")}
    group, width = exact["v"].shape[1] // exact["k"].shape[1], exact["k"].shape[2]
    k = linear_attention.unit_length(exact["k"], case["eps"]).repeat(group, axis=1)
    q = linear_attention.unit_length(exact["q"], case["eps"]).repeat(group, axis=1) * width**-0.5
    of_k = (width + 1) / 2 + 5  # roundings
    S, E, rows, errors = exact["state"], np.zeros_like(exact["state"]), [], []
    for t in range(len(q)):
        keep = np.exp(exact["log_decay"][t])[:, None, None]  # (Nv, 1, 1)
        key, query = np.abs(k[t])[:, None], np.abs(q[t])[:, None]  # (Nv, 1, Dk)
        beta = exact["beta"][t][:, None]  # (Nv, 1)
        E = keep * E + gamma(EXP + 1, u) * keep * (np.abs(S) + E) + small * (1 + np.abs(S) + E)
        S = keep * S
        found = (S * k[t][:, None]).sum(axis=-1)  # (Nv, Dv)
        off = (E * key).sum(axis=-1)
        off += gamma(width + of_k, u) * ((np.abs(S) + E) * key).sum(axis=-1) + small
        change = beta * (exact["v"][t] - found)
        sizes = np.abs(beta) * (np.abs(exact["v"][t]) + np.abs(found) + off)
        off = np.abs(beta) * off + gamma(2, u) * sizes + small
        product = (np.abs(change) + off)[..., None] * key  # (Nv, Dv, Dk)
        E = E + off[..., None] * key + gamma(of_k + 1, u) * product + small
        S = S + change[..., None] * k[t][:, None]
        E = E + u * (np.abs(S) + E)
        rows.append((S * q[t][:, None]).sum(axis=-1))
        size = ((np.abs(S) + E) * query).sum(axis=-1)
        errors.append((E * query).sum(axis=-1) + gamma(width + of_k + 2, u) * size + small)
    _judge("gated_delta", case, (out, state), (rows, errors), (S, E))


def check_lightning(case: Case, got: Any) -> None:
    """S = keep S + v k', o = S q, with an error beside every number as in `check_gated_delta`."""
    out, state = _pair("lightning", got)
    u, small = unit(case["numerics"]), tiny(case["numerics"])
    q, k, v, keep, S = (wide(case[name]) for name in ("q", "k", "v", "keep", "state"))
    keep, width = keep[:, None, None], k.shape[2]
    E, rows, errors = np.zeros_like(S), [], []
    for t in range(len(q)):
        E = keep * E + u * keep * (np.abs(S) + E) + small
        product = v[t][..., None] * k[t][:, None]  # (Nq, Dv, Dk)
        S = keep * S + product
        E = E + u * np.abs(product) + small
        E = E + u * (np.abs(S) + E)
        query = np.abs(q[t])[:, None]  # (Nq, 1, Dk)
        rows.append((S * q[t][:, None]).sum(axis=-1))
        size = ((np.abs(S) + E) * query).sum(axis=-1)
        errors.append((E * query).sum(axis=-1) + gamma(width, u) * size + small)
    _judge("lightning", case, (out, state), (rows, errors), (S, E))


def _judge(
    op: str,
    case: Case,
    got: tuple[Any, Any],
    out: tuple[list[Array], list[Array]],
    state: tuple[Array, Array],
) -> None:
    """Output (rounded to storage) and state (never rounded) against value and error."""
    numerics, shape = case["numerics"], case["v"].shape
    value, error = (np.array(part).reshape(shape) for part in out)
    want, allowed = settle(value, error, False, numerics)
    compare(f"{op}: out", got[0], want, allowed, numerics.dtype)
    allowed = with_reference(state[1], numerics)
    compare(f"{op}: state", got[1], state[0], allowed, numerics.dtype)


def _pair(op: str, got: Any) -> tuple[Any, Any]:
    """(out, state)."""
    if not isinstance(got, tuple) or len(got) != 2:
        raise AssertionError(f"{op}: got {type(got).__name__}, expected a pair (out, state)")
    return got[0], got[1]

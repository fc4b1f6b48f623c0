"""The experts: sort tokens by expert, run each expert once over its own, put the sum together.

    permute -> expert_ffn -> combine

The grouped form touches each expert's weights once per step; `moe_naive` at the end is what
it must equal, bit for bit.
"""

from __future__ import annotations

from itertools import pairwise

from tinymoe.cards import PLAIN_SWIGLU, ExpertCard
from tinymoe.core import Array, Numerics, Permutation, RouterCard, Routing
from tinymoe.model.precision import array_module, linear, linear_unrounded, store
from tinymoe.model.router import sigmoid
from tinymoe.model.weights import Weight


def permute(ids: Array, experts: int) -> Permutation:
    """Sort the T*K slots of ids (T, K) by expert; equal experts by token, then choice.

    A stable sort, so the order is defined. `offsets[e]:offsets[e+1]` are expert e's rows; an
    expert that nobody chose has an empty range.
    """
    xp = array_module(ids)
    flat = ids.reshape(-1)  # (T*K,)
    order = xp.argsort(flat, kind="stable")  # (T*K,)
    counts = xp.bincount(flat, minlength=experts)  # (E,)
    offsets = xp.zeros(experts + 1, dtype=xp.int64)
    xp.cumsum(counts, out=offsets[1:])
    return Permutation(order, offsets)


def silu(x: Array) -> Array:
    """x * sigmoid(x) = x / (1 + e^-x); e^-x may overflow to inf, and the result is then -0."""
    xp = array_module(x)
    with xp.errstate(over="ignore"):
        activated: Array = x / (1.0 + xp.exp(-x))
    return activated


def swiglu(gate_up: Array, numerics: Numerics, card: ExpertCard = PLAIN_SWIGLU) -> Array:
    """(T, 2I), gate half then up half, to silu(gate) * up (T, I). One rounding to storage.

    The halves are not exchangeable (sglang#32430: swapped, GSM8K 0 %). Clamped (gpt-oss): gate is
    cut at the limit from above alone, up on both sides, and (up + 1) * gate * sigmoid(alpha gate)
    (transformers#40197: the limit got lost on the way to the kernel).
    """
    width = gate_up.shape[-1] // 2
    gate, up = gate_up[..., :width], gate_up[..., width:]
    if card.activation == "swiglu":
        return store(silu(gate) * up, numerics.storage)
    xp, limit, alpha = array_module(gate_up), card.clamp_limit, card.clamp_alpha
    gate, up = xp.minimum(gate, limit), xp.clip(up, -limit, limit)  # type: ignore[operator]
    return store((up + 1) * (gate * sigmoid(alpha * gate)), numerics.storage)


def ffn(x: Array, gate_up: Weight, down: Weight, numerics: Numerics) -> Array:
    """One expert, or a dense layer: x (T, H), gate_up (2I, H), down (H, I) -> (T, H).

    Sums as in `linear`, over H and then over I; storage rounding after each of the three steps.
    """
    return linear(swiglu(linear(x, gate_up, numerics), numerics), down, numerics)


def grouped_linear(
    x: Array, weights: Weight, offsets: Array, numerics: Numerics, biases: Array | None = None
) -> Array:
    """`linear` of each expert over its own rows: x (S, in), weights (E, out, in) -> (S, out).

    Rows offsets[e]:offsets[e+1] meet weights[e] and biases[e], (E, out); an expert without rows
    is not read at all.
    """
    out = array_module(x).empty((len(x), weights.shape[1]), dtype=x.dtype)  # (S, out)
    bounds = offsets.tolist()
    for expert, (start, stop) in enumerate(pairwise(bounds)):
        if start < stop:
            bias = None if biases is None else biases[expert]
            out[start:stop] = linear_unrounded(x[start:stop], weights[expert], bias)
    return store(out, numerics.storage)


def expert_ffn(
    x: Array,
    gate_up: Weight,
    down: Weight,
    offsets: Array,
    numerics: Numerics,
    *,
    card: ExpertCard = PLAIN_SWIGLU,
    gate_up_bias: Array | None = None,
    down_bias: Array | None = None,
) -> Array:
    """All experts: rows x (S, H) in expert order, gate_up (E, 2I, H), down (E, H, I) -> (S, H).

    The same three steps as `ffn`, each over every expert before the next begins. Biases
    gate_up_bias (E, 2I) and down_bias (E, H) are added before the step's rounding. Where
    `down` says so, the activated rows are quantised once more on their way into it.
    """
    first = grouped_linear(x, gate_up, offsets, numerics, gate_up_bias)  # (S, 2I)
    hidden = swiglu(first, numerics, card)  # (S, I)
    return grouped_linear(hidden, down, offsets, numerics, down_bias)


def combine(expert_out: Array, weights: Array, numerics: Numerics) -> Array:
    """Sum each token's experts: expert_out (T, K, H), weights (T, K) -> (T, H).

    y = ((w0 o0 + w1 o1) + w2 o2) + ..., in `Routing` order (weight descending), in
    `numerics.accumulate`, one rounding to storage at the end (vllm#15045 summed in BF16).
    """
    weighted = weights[..., None] * expert_out  # (T, K, H)
    total = weighted[:, 0]  # (T, H)
    for k in range(1, weights.shape[1]):
        total = total + weighted[:, k]
    return store(total, numerics.storage)


def unpermute(rows: Array, order: Array, top_k: int) -> Array:
    """Rows (T*K, H) in expert order back to slots (T, K, H)."""
    slots = array_module(rows).empty_like(rows)
    slots[order] = rows
    return slots.reshape(-1, top_k, rows.shape[-1])


def moe_naive(
    x: Array, routing: Routing, gate_up: Array, down: Array, card: RouterCard, numerics: Numerics
) -> Array:
    """The twin: for each token, for each of its experts. x (T, H) -> (T, H)."""
    out = array_module(x).empty_like(x)
    for t in range(len(x)):
        for k in range(card.top_k):
            expert, weight = int(routing.ids[t, k]), routing.weights[t, k]
            row = x[t] if card.weight_on == "output" else store(weight * x[t], numerics.storage)
            result = ffn(row[None], gate_up[expert], down[expert], numerics)[0]
            term = weight * result if card.weight_on == "output" else result
            out[t] = term if k == 0 else out[t] + term
    return store(out, numerics.storage)

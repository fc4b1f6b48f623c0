"""The checks of the op table, one a row: is an output what the definition gives.

Each takes the case (the op's arguments by name) and an implementation's output, and raises an
AssertionError that says op, first wrong index, got, expected, difference and bound. `route` and
`sample` have files of their own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from tinymoe.cards import PLAIN_SWIGLU, ExpertCard
from tinymoe.core import NUMERICS, Array, Numerics
from tinymoe.kernels.bounds import (
    EXP,
    UNIT,
    compare,
    expect_array,
    gamma,
    settle,
    stored,
    sums_exactly,
    tiny,
    unit,
    wide,
    with_reference,
)
from tinymoe.model import experts, norm, rope
from tinymoe.model.attention import first_seen, read_pages
from tinymoe.model.precision import linear_unrounded, store
from tinymoe.model.router import softmax

Case = dict[str, Any]
EXACT = NUMERICS["exact"]
SILU_SLOPE = 1.1  # |d silu / dx| <= 1.0998...


def check_linear(case: Case, got: Any) -> None:
    """A dot product of n terms and a bias, in any order, fused or not: gamma(n + 1) sum |x| |w|."""
    x, weight, numerics = wide(case["x"]), wide(case["weight"]), case["numerics"]
    bias = np.zeros(len(weight)) if case.get("bias") is None else wide(case["bias"])
    size = linear_unrounded(np.abs(x), np.abs(weight), np.abs(bias))  # (T, out)
    is_exact = sums_exactly(x, weight, size.max(initial=0), numerics, bias)
    bound = gamma(x.shape[1] + 1, unit(numerics)) * size + tiny(numerics)
    want, allowed = settle(linear_unrounded(x, weight, bias), bound, is_exact, numerics)
    compare("linear: out", got, want, allowed, numerics.dtype)


def check_expert_ffn(case: Case, got: Any) -> None:
    """Two products with silu(gate) * up between them; see `ffn_bound`."""
    numerics, bounds = case["numerics"], case["offsets"].tolist()
    expect_array("expert_ffn: out", got, case["x"].shape, numerics.dtype)
    for expert, (start, stop) in enumerate(pairwise(bounds)):
        if start == stop:
            continue
        x, gate_up = case["x"][start:stop], case["gate_up"][expert]
        biases = [
            np.zeros(len(case[name][expert]))
            if case.get(f"{name}_bias") is None
            else wide(case[f"{name}_bias"][expert])
            for name in ("gate_up", "down")
        ]
        card = case.get("card", PLAIN_SWIGLU)
        want, allowed = ffn_bound(x, gate_up, case["down"][expert], biases, card, numerics)
        what = f"expert_ffn: out[{start}:{stop}] (expert {expert})"
        compare(what, got[start:stop], want, allowed, numerics.dtype)


def ffn_bound(
    x: Array,
    gate_up: Array,
    down: Array,
    biases: list[Array],
    card: ExpertCard,
    numerics: Numerics,
) -> tuple[Array, Array]:
    """What one expert's rows must be, and how closely: zero on the exact grid, else in steps.

    g and u = x W + b: e1 = gamma(H + 1) (|x||W| + |b|), then storage. silu moves by at most 1.1 e1
    and is evaluated with exp, 1 + e, a division: EXP + 3 roundings; the product with u is one
    more. That error passes through |W_down|, whose own sum adds gamma(I + 1) (|a||W_down| + |b|);
    then storage. Clamped: cutting moves nothing further apart, and g sigmoid(alpha g) has silu's
    slope; alpha g and up + 1 are a rounding each.
    """
    plain = card.activation == "swiglu" and not any(bias.any() for bias in biases)
    if plain and (exact := exact_ffn(x, gate_up, down, numerics)):
        return exact
    x, gate_up, down, u = wide(x), wide(gate_up), wide(down), unit(numerics)
    first = linear_unrounded(x, gate_up, biases[0])  # (T, 2I)
    size = linear_unrounded(np.abs(x), np.abs(gate_up), np.abs(biases[0]))
    error = stored(first, gamma(x.shape[1] + 1, u) * size, numerics.storage, numerics)
    hidden, moved = gated(first, error, card, numerics)
    moved = stored(hidden, moved, numerics.storage, numerics)
    size = linear_unrounded(np.abs(hidden) + moved, np.abs(down), np.abs(biases[1]))  # (T, H)
    bound = linear_unrounded(moved, np.abs(down)) + tiny(numerics)
    bound += gamma(hidden.shape[1] + 1, u) * size
    return settle(linear_unrounded(hidden, down, biases[1]), bound, False, numerics)


def gated(first: Array, error: Array, card: ExpertCard, numerics: Numerics) -> tuple[Array, Array]:
    """silu(gate) * up (T, I) of first (T, 2I), known to within `error`; and its error, unstored."""
    u, error = unit(numerics), error.copy()
    width = first.shape[1] // 2
    gate, up, alpha = first[:, :width], first[:, width:], 1.0
    if card.clamp_limit is not None and card.clamp_alpha is not None:
        gate, alpha = np.minimum(gate, card.clamp_limit), card.clamp_alpha
        up = np.clip(up, -card.clamp_limit, card.clamp_limit) + 1
        error[:, width:] += u * np.abs(up)
    activated = experts.silu(alpha * gate) / alpha  # (T, I)
    moved = SILU_SLOPE * error[:, :width]
    # 1: alpha gate, whose error the slope passes on
    moved += gamma(EXP + 5, u) * (np.abs(activated) + moved) + tiny(numerics)
    moved += SILU_SLOPE * u * np.abs(gate)
    hidden = activated * up  # (T, I)
    moved = (np.abs(activated) + moved) * (np.abs(up) + error[:, width:]) - np.abs(hidden)
    return hidden, moved


def exact_ffn(
    x: Array, gate_up: Array, down: Array, numerics: Numerics
) -> tuple[Array, Array] | None:
    """The exact result and a bound of zero, if every order of sums gives the same bits.

    silu is exact where 1 + e^-g rounds to 1 (g >= 18; 37 in float64) or e^-g overflows and the
    result is zero either way (g <= -104; -746): then only sums are left, and they must be exact.
    """
    high, low = (18, -104) if numerics.accumulate == "float32" else (37, -746)
    size = linear_unrounded(np.abs(wide(x)), np.abs(wide(gate_up))).max(initial=0)
    if not sums_exactly(x, gate_up, size, numerics):
        return None
    first = store(linear_unrounded(x, gate_up), numerics.storage)
    width = first.shape[1] // 2
    gate, up = wide(first[:, :width]), wide(first[:, width:])
    product = np.where(gate >= high, gate, 0) * up
    if not ((gate >= high) | (gate <= low)).all() or (product != product.astype(x.dtype)).any():
        return None
    hidden = store(product.astype(x.dtype), numerics.storage)
    size = linear_unrounded(np.abs(wide(hidden)), np.abs(wide(down))).max(initial=0)
    if not sums_exactly(hidden, down, size, numerics):
        return None
    exact = linear_unrounded(wide(hidden), wide(down))
    return settle(exact, np.zeros_like(exact), True, numerics)


def check_combine(case: Case, got: Any) -> None:
    """A sum of K products: gamma(K) * sum |w| |o|; zero where the sums are exact."""
    out, weights, numerics = wide(case["expert_out"]), wide(case["weights"]), case["numerics"]
    size = np.einsum("tkh,tk->th", np.abs(out), np.abs(weights))
    is_exact = sums_exactly(out, weights, size.max(initial=0), numerics)
    bound = gamma(weights.shape[1], unit(numerics)) * size + tiny(numerics)
    exact = np.einsum("tkh,tk->th", out, weights)
    want, allowed = settle(exact, bound, is_exact, numerics)
    compare("combine: out", got, want, allowed, numerics.dtype)


def check_permute(case: Case, got: Any) -> None:
    """Integers: equal."""
    for field, value, wanted in zip(
        ("order", "offsets"), got, experts.permute(case["ids"], case["experts"]), strict=True
    ):
        expect_array(f"permute: {field}", value, wanted.shape)
        if value.dtype.kind not in "iu":
            raise AssertionError(f"permute: {field} must hold whole numbers, got {value.dtype}")
        compare(f"permute: {field}", value, wanted, 0)


def check_rmsnorm(case: Case, got: Any) -> None:
    """Relative: half of (N for the sum of squares + 3), for the root, and 5 more roundings.

    The sum has only positive terms, so its error is relative; mean, eps and its own rounding are
    3; the root halves all this; root, reciprocal or division, product, weight, conversion: 5.
    """
    numerics, eps = case["numerics"], case["eps"]
    x, weight = wide(case["x"]), wide(case["weight"])
    normed = norm.rmsnorm(x, np.ones_like(weight), eps, EXACT, rounds_before_weight=False)
    error = gamma((x.shape[-1] + 3) / 2 + 5, unit(numerics)) * np.abs(normed) + tiny(numerics)
    if case["rounds_before_weight"]:
        error = stored(normed, error, numerics.storage, numerics)
    want = normed * weight
    error = stored(want, error * np.abs(weight), numerics.storage, numerics) + tiny(numerics)
    compare("rmsnorm: out", got, want, with_reference(error, numerics), numerics.dtype)


def check_rope(case: Case, got: Any) -> None:
    """a cos - b sin: two products and a sum, gamma(3) (|a cos| + |b sin|); the rest unchanged."""
    x, card, numerics = case["x"], case["card"], case["numerics"]
    tables = (wide(case["tables"][0]), wide(case["tables"][1]))
    want = rope.rope(wide(x), tables, card, EXACT)
    sizes = (np.abs(tables[0]), -np.abs(tables[1]))  # so that |a||c| - (-|b||s|) is a sum
    first = rope.rope(np.abs(wide(x)), sizes, card, EXACT)
    sizes = (np.abs(tables[0]), np.abs(tables[1]))
    second = rope.rope(np.abs(wide(x)), sizes, card, EXACT)  # b cos + a sin is one already
    error = gamma(3, unit(numerics)) * np.maximum(first, second)
    error[..., card.rotary_dim :] = 0  # copied, not computed
    error = stored(want, error + tiny(numerics), numerics.storage, numerics)
    error[..., card.rotary_dim :] = 0  # already in storage
    compare("rope: out", got, want, with_reference(error, numerics), numerics.dtype)


def check_attention_decode(case: Case, got: Any) -> None:
    """Each sequence's token over its own keys; see `attend_bound`."""
    for r, (table, length) in enumerate(zip(case["block_tables"], case["lengths"], strict=True)):
        _check_token(f"attention_decode: out[{r}]", case, got, r, table, length)


def check_attention_prefill(case: Case, got: Any) -> None:
    """Token t over keys 0 .. start + t, hidden ones left out; see `attend_bound`."""
    for t in range(len(case["q"])):
        length = case["start"] + t + 1
        _check_token(f"attention_prefill: out[{t}]", case, got, t, case["block_table"], length)


def _check_token(what: str, case: Case, got: Any, row: int, table: Array, length: int) -> None:
    numerics, shape = case["numerics"], (*case["q"].shape[:2], case["value_pages"].shape[-1])
    expect_array(what.partition("[")[0], got, shape, numerics.dtype)
    first = first_seen(length - 1, case.get("window"), case.get("chunk"))
    k = wide(read_pages(case["key_pages"], table, length, first))
    v = wide(read_pages(case["value_pages"], table, length, first))
    sinks = None if case.get("sinks") is None else wide(case["sinks"])
    exact, bound = attend_bound(wide(case["q"][row]), k, v, case["scale"], numerics, sinks)
    want, allowed = settle(exact, bound, False, numerics)
    compare(what, got[row], want, allowed)


def attend_bound(
    q: Array,
    k: Array,
    v: Array,
    scale: float,
    numerics: Numerics,
    sinks: Array | None = None,
) -> tuple[Array, Array]:
    """One query (Nq, D) over n keys in float64, and how far a correct result may be from it.

    Scores: gamma(D + 3) |scale| |q||k| (the dot product, the scale and its rounding), and
    u |s - max| for taking the maximum off. If every exponent is off by at most d, then
    |p' - p| <= p (1 - p) (e^(2d) - 1): write p' = p a / (p a + (1 - p) b) with a and b in
    [e^-d, e^d]. So a lone key has no error here, nor has a clear winner. Then exp (in p and in
    the divisor), the divisor's sum, a division, and the weighted sum over n. A sink is one more
    key whose score is exact and whose value is zero.
    """
    n, kv_heads, head_dim = k.shape
    u, grouped, keys = unit(numerics), q.reshape(kv_heads, -1, head_dim), k.transpose(1, 2, 0)
    scores = scale * (grouped @ keys)  # (Nk, g, n)
    blur = abs(scale) * gamma(head_dim + 3, u) * (np.abs(grouped) @ np.abs(keys))
    values = v.transpose(1, 0, 2)  # (Nk, n, Dv)
    if sinks is not None:
        own = sinks.reshape(kv_heads, -1, 1)  # (Nk, g, 1)
        scores = np.concatenate([scores, own], axis=-1)
        blur = np.concatenate([blur, np.zeros_like(own)], axis=-1)
        values = np.concatenate([values, np.zeros_like(values[:, :1])], axis=1)
        n += 1
    blur += u * np.abs(scores - scores.max(axis=-1, keepdims=True))
    twice = np.minimum(2 * blur.max(axis=-1, keepdims=True), 700)  # e^700: no bound left anyway
    p = softmax(scores)
    moved = np.minimum(p * (1 - p + n * UNIT["float64"]) * np.expm1(twice), 1)
    size = np.abs(values)
    bound = moved @ size + gamma(2 * (n + EXP) + 4, u) * ((p + moved) @ size)
    bound = bound + tiny(numerics) * (1 + size.sum(axis=1, keepdims=True))
    return (p @ values).reshape(len(q), -1), bound.reshape(len(q), -1)

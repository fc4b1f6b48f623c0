"""Ways to make experts wrong: weights, order, sums, activation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from tinymoe.cards import PLAIN_SWIGLU, ExpertCard
from tinymoe.core import Array, Numerics, Permutation
from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.model.experts import grouped_linear
from tinymoe.model.params import MoeParams
from tinymoe.model.precision import store
from tinymoe.model.router import sigmoid
from tinymoe.oracle.mutants.mutant import (
    Change,
    Setup,
    moe_params,
    on_values,
    then,
    unless,
    wrapped,
)
from tinymoe.oracle.mutants.rerouting import needs

EXPERT_OUT, ROUTED = "layers.*.moe.expert_out", "layers.*.moe.routed"


def halves(stack: Array) -> Array:
    """The gate's rows and the up projection's (E, 2I, H) or (E, 2I) exchanged."""
    return np.roll(stack, stack.shape[1] // 2, axis=1)


def swap_gate_up(moe: MoeParams) -> MoeParams:
    """Gate for up, biases too."""
    bias = None if moe.gate_up_bias is None else halves(moe.gate_up_bias)
    return replace(moe, gate_up=on_values(moe.gate_up, halves), gate_up_bias=bias)


def interleave(moe: MoeParams) -> MoeParams:
    """Halves read as if gate and up rows alternated: gate is rows 0, 2, 4 ..., up 1, 3, 5 ..."""
    count = moe.gate_up.shape[1]
    order = np.concatenate([np.arange(0, count, 2), np.arange(1, count, 2)])
    bias = None if moe.gate_up_bias is None else moe.gate_up_bias[:, order]
    return replace(
        moe, gate_up=on_values(moe.gate_up, lambda stack: stack[:, order]), gate_up_bias=bias
    )


def rolled(*names: str) -> Change:
    """Those stacks of the experts' weights (E, ...) moved on by one expert."""

    def change(moe: MoeParams) -> MoeParams:
        moved = dict[str, Any]()
        for name in names:
            stack = getattr(moe, name)
            if stack is not None:
                moved[name] = on_values(stack, lambda values: np.roll(values, 1, axis=0))
        return replace(moe, **moved)

    return moe_params(change)


def combining(weights: Callable[[Array], Array]) -> Change:
    """The right outputs summed with other weights (T, K)."""

    def wrapper(original: Any, out: Array, given: Array, *rest: Any) -> Array:
        return original(out, weights(given), *rest)

    return wrapped("combine", wrapper)


def without(choice: int) -> Change:
    """One choice left out of the sum."""

    def drop(weights: Array) -> Array:
        kept = weights.copy()
        kept[:, choice] = 0
        return kept

    return combining(drop)


def bf16_sum(original: Any, out: Array, weights: Array, numerics: Numerics) -> Array:
    """Products and partial sums rounded to bf16 one by one."""
    total = np.zeros_like(out[:, 0])
    for k in range(weights.shape[1]):
        term = round_to_bf16((weights[:, k, None] * out[:, k]).astype(np.float32))
        total = round_to_bf16((total + term).astype(np.float32)).astype(out.dtype)
    return store(total, numerics.storage)


def choice_major(original: Any, ids: Array, experts: int) -> Permutation:
    """Slots numbered k * T + t where the rest of the code counts t * K + k."""
    return original(np.ascontiguousarray(ids.T).reshape(ids.shape), experts)


def no_empty(original: Any, ids: Array, experts: int) -> Permutation:
    """Offsets without the experts that nobody chose: all later ones get their neighbours' rows."""
    right = original(ids, experts)
    counts = np.diff(right.offsets)
    squeezed = np.concatenate([counts[counts > 0], counts[counts == 0]])
    return right._replace(offsets=np.concatenate([[0], np.cumsum(squeezed)]))


def backwards(original: Any, ids: Array, experts: int) -> Permutation:
    """An unstable sort: inside an expert, rows come in the reverse order."""
    right = original(ids, experts)
    runs = [right.order[a:b][::-1] for a, b in pairwise(right.offsets.tolist())]
    return right._replace(order=np.concatenate(runs))


def capacity(
    original: Any, x: Array, gate_up: Array, down: Array, offsets: Array, *a: Any, **k: Any
) -> Array:
    """Rows beyond ceil(T K / E) of one expert are dropped: zeros."""
    out = original(x, gate_up, down, offsets, *a, **k).copy()
    room = math.ceil(len(x) / len(gate_up))
    for start, stop in pairwise(offsets.tolist()):
        out[start + room : stop] = 0
    return out


def activating(activation: Callable[[Array, Array, ExpertCard], Array]) -> Change:
    """Experts with another activation: (gate (S, I), up (S, I), card) -> (S, I)."""

    def wrapper(
        original: Any,
        x: Array,
        gate_up: Array,
        down: Array,
        offsets: Array,
        numerics: Numerics,
        *,
        card: ExpertCard = PLAIN_SWIGLU,
        gate_up_bias: Array | None = None,
        down_bias: Array | None = None,
    ) -> Array:
        first = grouped_linear(x, gate_up, offsets, numerics, gate_up_bias)  # (S, 2I)
        gate, up = np.split(first, 2, axis=-1)
        hidden = store(activation(gate, up, card).astype(x.dtype), numerics.storage)
        return grouped_linear(hidden, down, offsets, numerics, down_bias)

    return wrapped("expert_ffn", wrapper)


def clamped(
    *,
    gate_low: bool = False,
    gate: bool = True,
    up: bool = True,
    alpha: bool = True,
    one: float = 1,
) -> Change:
    """gpt-oss's activation with parts of it left out or added."""

    def activation(g: Array, u: Array, card: ExpertCard) -> Array:
        limit, slope = card.clamp_limit or math.inf, card.clamp_alpha or 1.0
        g = np.minimum(g, limit) if gate else g
        g = np.maximum(g, -limit) if gate_low else g
        u = np.clip(u, -limit, limit) if up else u
        return (u + one) * (g * sigmoid((slope if alpha else 1.0) * g))

    return activating(activation)


def gelu(x: Array) -> Array:
    """The tanh form."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def input_and_output(setup: Setup) -> Setup:
    """Expert inputs weighted, as they should be, and the outputs once more."""
    held: list[Array] = []

    def route(original: Any, *args: Any, **kwargs: Any) -> Any:
        held[:] = [(routing := original(*args, **kwargs)).weights]
        return routing

    def join(original: Any, out: Array, weights: Array, numerics: Numerics) -> Array:
        return original(out, held[0], numerics)

    return then(wrapped("route", route), wrapped("combine", join))(setup)


plain = unless(lambda s: s.config.experts.activation != "swiglu", "the activation is not SwiGLU")
oss = unless(
    lambda s: s.config.experts.activation != "swiglu_clamped", "the activation has no clamp"
)
biased = unless(lambda s: not s.config.experts.biases, "the experts have no biases")
on_input = needs(lambda c: c.weight_on == "input", "the weights are on the experts' outputs")
on_output = needs(lambda c: c.weight_on == "output", "the weights are on the experts' inputs")

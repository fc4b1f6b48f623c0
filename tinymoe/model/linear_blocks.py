"""The two layers whose memory is a state: the gated delta net, and lightning attention.

A run's state lies in the one slot that its sequence holds; a sequence that begins starts from
zeros, whatever the slot's last owner left there.
"""

from __future__ import annotations

from collections.abc import Callable

from tinymoe.core import Array, GatedDeltaCard, LightningCard
from tinymoe.model.context import Pass, finish, gated, norm, project
from tinymoe.model.experts import silu
from tinymoe.model.linear_attention import Carried
from tinymoe.model.params import GatedDeltaParams, LightningParams
from tinymoe.model.precision import array_module, store
from tinymoe.model.router import sigmoid


def gated_delta_block(
    normed: Array,
    params: GatedDeltaParams,
    held: tuple[Array, Array],
    card: GatedDeltaCard,
    index: int,
    this: Pass,
    name: str,
) -> Array:
    """Project, convolve, run the rule, norm, gate, project: (T, H) -> (T, H)."""
    xp, numerics, tap = array_module(normed), this.numerics, this.tap
    tokens, channels = len(normed), card.channels
    mixed = project(normed, params.qkvz, None, this)  # (T, C + Nv*Dv)
    z = mixed[:, channels:].reshape(tokens, card.value_heads, -1)  # (T, Nv, Dv)
    beta, log_decay = gates(normed, params, card, this)  # (T, Nv) each
    x = xp.ascontiguousarray(mixed[:, :channels])

    def convolve(rows: slice, before: Array) -> Carried:
        return this.ops.causal_conv(x[rows], params.conv, before, numerics)

    folded = carry(convolve, held[1], xp.empty_like(x), index, this)  # (T, C)
    ends = (card.key_heads * card.key_dim, 2 * card.key_heads * card.key_dim)
    q, k, v = (
        xp.ascontiguousarray(part).reshape(tokens, heads, -1)
        for part, heads in (
            (folded[:, : ends[0]], card.key_heads),
            (folded[:, ends[0] : ends[1]], card.key_heads),
            (folded[:, ends[1] :], card.value_heads),
        )
    )
    named = (("q", q), ("k", k), ("v", v), ("beta", beta), ("log_decay", log_decay))
    for what, value in named:
        tap(f"{name}.{what}", value)

    def remember(rows: slice, before: Array) -> Carried:
        decay, strength, eps = log_decay[rows], beta[rows], card.unit_eps
        return this.ops.gated_delta(
            q[rows], k[rows], v[rows], decay, strength, before, eps, numerics
        )

    mix = carry(remember, held[0], xp.empty_like(v), index, this)  # (T, Nv, Dv)
    mix = this.ops.rmsnorm(  # this one's weight is plain, and x / rms is rounded before it
        mix, params.out_norm, this.config.rms_norm_eps, numerics, rounds_before_weight=True
    )
    gate = silu(z)
    tap(f"{name}.gate", gate.reshape(tokens, -1))
    mix = store(mix * gate, numerics.storage).reshape(tokens, -1)  # (T, Nv*Dv)
    return finish(mix, params.out, None, this, name)


def gates(
    normed: Array, params: GatedDeltaParams, card: GatedDeltaCard, this: Pass
) -> tuple[Array, Array]:
    """How much each value head takes in, rounded to storage, and the log of what it keeps.

    beta = sigmoid(b); log_decay = -e^A_log softplus(a + dt_bias), in `numerics.accumulate`.
    """
    xp = array_module(normed)
    both = project(normed, params.ba, None, this)  # (T, 2 Nv)
    b, a = both[:, : card.value_heads], both[:, card.value_heads :]
    softplus = xp.logaddexp(a.dtype.type(0), a + params.dt_bias)  # (T, Nv)
    return store(sigmoid(b), this.numerics.storage), -xp.exp(params.a_log) * softplus


def lightning_block(
    normed: Array,
    params: LightningParams,
    held: tuple[Array, Array],
    card: LightningCard,
    index: int,
    this: Pass,
    name: str,
) -> Array:
    """Project, silu, fold into the state, norm, gate, project: (T, H) -> (T, H)."""
    xp, numerics, tap = array_module(normed), this.numerics, this.tap
    tokens, heads = len(normed), len(card.decays)
    qkv = store(silu(project(normed, params.qkv, None, this)), numerics.storage)
    parts = qkv.reshape(tokens, 3, heads, -1).swapaxes(0, 1)  # (3, T, Nq, D)
    q, k, v = (xp.ascontiguousarray(part) for part in parts)
    for letter, value in (("q", q), ("k", k), ("v", v)):
        tap(f"{name}.{letter}", value)
    decays = xp.asarray(card.decays, dtype=xp.float64)  # (Nq,)
    keep = xp.exp(-decays).astype(numerics.dtype)

    def remember(rows: slice, before: Array) -> Carried:
        return this.ops.lightning(q[rows], k[rows], v[rows], keep, before, numerics)

    mix = carry(remember, held[0], xp.empty_like(v), index, this).reshape(tokens, -1)
    mix = norm(mix, params.out_norm, this, eps=card.norm_eps)  # (T, Nq*D), over all heads
    mix = gated(mix, normed, params.gate, this, name)
    return finish(mix, params.out, None, this, name)


def carry(
    step: Callable[[slice, Array], Carried], states: Array, out: Array, index: int, this: Pass
) -> Array:
    """Every run from its own state to its next, which takes the place of the old: `out`, filled."""
    group = this.group_of[index]
    for run in this.runs:
        slot = int(run.pages[group][0])
        before = states[slot] if run.start else array_module(states).zeros_like(states[slot])
        out[run.rows], states[slot] = step(run.rows, before)
    return out

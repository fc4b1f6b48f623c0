"""Softmax attention, the common kind: project, turn, remember, look back, project."""

from __future__ import annotations

from tinymoe.core import Array, AttentionCard
from tinymoe.formats.inputs import InputFormat, fake_quantise
from tinymoe.model.attention import write_pages
from tinymoe.model.context import Pass, finish, gated, look_back, norm, project, turn
from tinymoe.model.params import AttentionParams
from tinymoe.model.precision import array_module, store


def attention_block(
    normed: Array,
    params: AttentionParams,
    pages: tuple[Array, Array],
    card: AttentionCard,
    this: Pass,
    name: str,
) -> Array:
    """Project, turn, remember, look back, project: (T, H) -> (T, H)."""
    config, tap = this.config, this.tap
    tokens, turning = len(normed), config.heads + config.kv_heads  # heads that rope turns
    qkv = project(normed, params.qkv, params.qkv_bias, this)  # (T, (Nq + 2 Nk)*D)
    heads = qkv.reshape(tokens, -1, config.head_dim)  # (T, Nq + 2 Nk, D)
    qk, v = heads[:, :turning], heads[:, turning:]
    if not card.qk_norm_after_rope:
        qk = norm_heads(qk, params.qk_norm, card, this)
    if card.clip is not None:
        qk, v = (array_module(qkv).clip(part, -card.clip, card.clip) for part in (qk, v))
    qk = turn(qk, card, this)  # (T, Nq + Nk, D)
    if card.qk_norm_after_rope:
        qk = norm_heads(qk, params.qk_norm, card, this)
    q, k = warm(qk[:, : config.heads], card, this), qk[:, config.heads :]
    k, v = as_cached(k, params.key_format), as_cached(v, params.value_format)
    for letter, value in (("q", q), ("k", k), ("v", v)):
        tap(f"{name}.{letter}", value)
    for held, new in zip(pages, (k, v), strict=True):
        write_pages(held, this.lookups.slots, new)
    mix = look_back(q, pages, card, params.sinks, this).reshape(tokens, -1)  # (T, Nq*D)
    if card.out_gate:
        mix = gated(mix, normed, params.gate, this, name)
    return finish(mix, params.out, params.out_bias, this, name)


def as_cached(values: Array, form: InputFormat | None) -> Array:
    """Keys or values (T, Nk, D) as a cache in this format gives them back."""
    if form is None:
        return values
    return fake_quantise(values.reshape(len(values), -1), form).reshape(values.shape)


def warm(q: Array, card: AttentionCard, this: Pass) -> Array:
    """Queries (T, Nq, D) of a layer with a temperature, longer the later their position."""
    if card.temperature is None:
        return q
    xp, scale = array_module(q), card.temperature.scale
    steps = xp.floor((this.positions + 1) / card.temperature.floor_scale)  # (T,)
    factor = (xp.log1p(steps) * scale + 1).astype(q.dtype)
    return store(q * factor[:, None, None], this.numerics.storage)


def norm_heads(qk: Array, weight: Array | None, card: AttentionCard, this: Pass) -> Array:
    """RMSNorm of queries and keys (T, Nq + Nk, D): each head by itself, or all of a kind as one."""
    if weight is None:
        return qk
    if card.qk_norm != "all_heads":
        return norm(qk, weight, this)
    parts = []
    for part in (slice(this.config.heads), slice(this.config.heads, None)):
        flat = qk[:, part].reshape(len(qk), -1)  # (T, Nq*D), then (T, Nk*D)
        parts.append(norm(flat, weight[part].reshape(-1), this).reshape(qk[:, part].shape))
    return array_module(qk).concatenate(parts, axis=1)

"""Ways to make attention wrong: what is seen, who reads whose keys, how far heads turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tinymoe.cards import LatentCard, LongRopeScaling, RopeCard, YarnScaling
from tinymoe.core import Array, AttentionCard, Numerics
from tinymoe.model.attention import attend, first_seen, read_pages
from tinymoe.model.params import AttentionParams, LatentParams
from tinymoe.model.precision import store
from tinymoe.model.rope import inverse_frequencies, magnitude, rope_tables
from tinymoe.oracle.mutants.mutant import (
    Change,
    Setup,
    WhyNot,
    attention_cards,
    looking_back,
    on_values,
    then,
    unless,
    wrapped,
)

Q, K, V, MIX, OUT = (f"layers.*.attn.{name}" for name in ("q", "k", "v", "mix", "out"))
Sees = Callable[[int, int, int], tuple[int, int]]  # (position, first key, keys in all) -> slice


def seeing(sees: Sees) -> Change:
    """Attention over other keys than first .. position."""

    def one(
        q: Array,
        pages: tuple[Array, Array],
        table: Array,
        position: int,
        length: int,
        scale: float,
        window: int | None,
        chunk: int | None,
        sinks: Array | None,
    ) -> Array:
        lo, hi = sees(position, first_seen(position, window, chunk), length)
        k, v = (read_pages(page, table, length)[lo:hi] for page in pages)
        return attend(q, k, v, scale, sinks)

    def prefill(
        original: Any,
        q: Array,
        key_pages: Array,
        value_pages: Array,
        table: Array,
        start: int,
        scale: float,
        numerics: Numerics,
        *,
        window: int | None = None,
        chunk: int | None = None,
        sinks: Array | None = None,
    ) -> Array:
        pages, length = (key_pages, value_pages), start + len(q)
        rows = [
            one(row, pages, table, start + t, length, scale, window, chunk, sinks)
            for t, row in enumerate(q)
        ]
        return store(np.stack(rows), numerics.storage)

    def decode(
        original: Any,
        q: Array,
        key_pages: Array,
        value_pages: Array,
        tables: list[Array],
        lengths: list[int],
        scale: float,
        numerics: Numerics,
        **named: Any,
    ) -> Array:
        rows = [
            prefill(
                None, q[r : r + 1], key_pages, value_pages, table, n - 1, scale, numerics, **named
            )[0]
            for r, (table, n) in enumerate(zip(tables, lengths, strict=True))
        ]
        return np.stack(rows)

    return then(wrapped("attention_prefill", prefill), wrapped("attention_decode", decode))


def heads_tiled(setup: Setup) -> Setup:
    """Key head of query head h taken as h mod Nk in place of h // (Nq / Nk)."""
    heads, kv_heads = setup.config.heads, setup.config.kv_heads
    order = np.arange(heads).reshape(-1, kv_heads).T.ravel()  # (Nq,) heads that share come together

    def look(
        original: Any, q: Array, *rest: Any, sinks: Array | None = None, **named: Any
    ) -> Array:
        if sinks is not None:
            named["sinks"] = sinks[order]
        out = original(np.ascontiguousarray(q[:, order]), *rest, **named)
        return out[:, np.argsort(order)]

    return then(wrapped("attention_prefill", look), wrapped("attention_decode", look))(setup)


def heads_as(
    params: AttentionParams, setup: Setup, change: Callable[[Array, Array, Array], list[Array]]
) -> AttentionParams:
    """The rows of qkv (queries', keys' and values') as `change` has them."""
    d, nq, nk = setup.config.head_dim, setup.config.heads, setup.config.kv_heads

    def rows(qkv: Array) -> Array:
        q, k, v = np.split(qkv, [nq * d, (nq + nk) * d])
        return np.concatenate(change(q, k, v))

    return replace(params, qkv=on_values(params.qkv, rows))


def on_params(change: Callable[[AttentionParams, Setup], AttentionParams]) -> Change:
    """The attention's weights changed, with the shapes at hand."""

    def apply(setup: Setup) -> Setup:
        layers = tuple(
            replace(layer, attention=change(layer.attention, setup))
            if isinstance(layer.attention, AttentionParams)
            else layer
            for layer in setup.params.layers
        )
        return setup._replace(params=replace(setup.params, layers=layers))

    return apply


def keys_for_values(params: AttentionParams, setup: Setup) -> AttentionParams:
    """The fused matrix read as queries, values, keys."""
    return heads_as(params, setup, lambda q, k, v: [q, v, k])


def dims_before_heads(params: AttentionParams, setup: Setup) -> AttentionParams:
    """Query rows read as (D, Nq) in place of (Nq, D)."""

    def change(q: Array, k: Array, v: Array) -> list[Array]:
        mixed = q.reshape(setup.config.head_dim, -1, q.shape[-1]).transpose(1, 0, 2)
        return [mixed.reshape(q.shape), k, v]

    return heads_as(params, setup, change)


def norms_for_each_other(params: AttentionParams, setup: Setup) -> AttentionParams:
    """The queries' norm weight for the keys, and the other way round."""
    weight, heads = params.qk_norm, setup.config.heads
    if weight is None:
        return params
    exchanged = np.empty_like(weight)
    exchanged[:heads], exchanged[heads:] = weight[-1], weight[0]
    return replace(params, qk_norm=exchanged)


def cards_rolled(setup: Setup) -> Setup:
    """Each layer gets its neighbour's window."""
    windows = [card.window for card in looking_back(setup.config)]
    moved = iter([windows[-1], *windows])  # of each layer that can have one, the one before
    return attention_cards(lambda card: replace(card, window=next(moved)))(setup)


# -------------------------------------------------------------------------------------- rope


def rope_cards(change: Callable[[RopeCard], RopeCard]) -> Change:
    """Every layer's rope card changed, where it has one."""
    return attention_cards(
        lambda card: card if card.rope is None else replace(card, rope=change(card.rope))
    )


def default_rope(setup: Setup) -> Setup:
    """Rope in the layers that have none."""
    other = next(card.rope for card in looking_back(setup.config) if card.rope is not None)
    return attention_cards(lambda card: replace(card, rope=card.rope or other))(setup)


def without_factor(card: RopeCard) -> RopeCard:
    """The factor on cosines and sines taken as 1."""
    if not isinstance(card.scaling, YarnScaling | LongRopeScaling):
        return card
    return replace(card, scaling=replace(card.scaling, attention_factor=1.0))


def other_ramp(card: RopeCard) -> RopeCard:
    """YaRN's ramp cut to whole dimensions, or not."""
    if not isinstance(card.scaling, YarnScaling):
        return card
    return replace(card, scaling=replace(card.scaling, truncate=not card.scaling.truncate))


def turning(change: Callable[..., Array]) -> Change:
    """Rope replaced: change(rope, x, tables, card, numerics)."""
    return wrapped("rope", change)


def one_further(rope: Any, x: Array, tables: Any, card: RopeCard, numerics: Numerics) -> Array:
    """Everything turned as if it came one position later."""
    size = magnitude(card)
    step = tuple(table / size for table in rope_tables(np.array([1]), card, numerics))
    return rope(rope(x, tables, card, numerics), step, card, numerics)


def queries_further(setup: Setup) -> Setup:
    """The queries alone one position later."""
    heads = setup.config.heads

    def change(rope: Any, x: Array, tables: Any, card: RopeCard, numerics: Numerics) -> Array:
        turned = rope(x, tables, card, numerics).copy()
        turned[:, :heads] = one_further(rope, x[:, :heads], tables, card, numerics)
        return turned

    return turning(change)(setup)


def keys_unturned(setup: Setup) -> Setup:
    """The queries alone turned."""
    heads = setup.config.heads

    def change(rope: Any, x: Array, tables: Any, card: RopeCard, numerics: Numerics) -> Array:
        turned = rope(x, tables, card, numerics).copy()
        turned[:, heads:] = x[:, heads:]
        return turned

    return turning(change)(setup)


def backwards(rope: Any, x: Array, tables: Any, card: RopeCard, numerics: Numerics) -> Array:
    """By minus the angle."""
    return rope(x, (tables[0], -tables[1]), card, numerics)


def twice(rope: Any, x: Array, tables: Any, card: RopeCard, numerics: Numerics) -> Array:
    """Turned, and turned again."""
    return rope(rope(x, tables, card, numerics), tables, card, numerics)


# ------------------------------------------------------------------------------------ latent


def latent_rows(params: LatentParams, card: LatentCard) -> LatentParams:
    """The down projection's rows read as [shared key | latent vector]."""
    rows = on_values(params.down, lambda down: np.roll(down, -card.rope_dim, axis=0))
    return replace(params, down=rows)


def on_latent(change: Callable[[LatentParams, LatentCard], LatentParams]) -> Change:
    """The weights of latent attention changed, with its card at hand."""

    def apply(setup: Setup) -> Setup:
        layers = []
        for layer, card in zip(setup.params.layers, setup.config.attention, strict=True):
            own = layer.attention
            if not isinstance(own, LatentParams) or not isinstance(card, AttentionCard):
                pass
            elif card.latent is not None:
                layer = replace(layer, attention=change(own, card.latent))
            layers.append(layer)
        return setup._replace(params=replace(setup.params, layers=tuple(layers)))

    return apply


def values_first(params: LatentParams, card: LatentCard) -> LatentParams:
    """Each head's rows of the up projection read as [value | key]."""
    up = on_values(params.up, lambda up: np.roll(up, -card.nope_dim, axis=1))
    return replace(params, up=up)


def query_order(params: LatentParams, card: LatentCard) -> LatentParams:
    """Each query head's rows read as [rope | nope]."""
    width = card.nope_dim + card.rope_dim

    def exchanged(query: Array) -> Array:
        heads = query.reshape(-1, width, query.shape[-1])
        return np.roll(heads, card.rope_dim, axis=1).reshape(query.shape)

    return replace(params, query=on_values(params.query, exchanged))


# ------------------------------------------------------------------------------ when they apply


def any_card(has: Callable[[AttentionCard], bool], why: str) -> WhyNot:
    """It applies if some layer has it."""
    return unless(lambda s: not any(has(card) for card in looking_back(s.config)), why)


def any_rope(has: Callable[[RopeCard], bool], why: str) -> WhyNot:
    """It applies if some layer's rope has it."""
    return any_card(lambda card: card.rope is not None and has(card.rope), why)


def any_params(has: Callable[[Any], bool], why: str) -> WhyNot:
    """It applies if some layer's weights have it."""
    return unless(lambda s: not any(has(layer.attention) for layer in s.params.layers), why)


def ramp_matters(card: RopeCard) -> bool:
    """Whether the two ramps differ anywhere."""
    return inverse_frequencies(card) != inverse_frequencies(other_ramp(card))


not_latent = any_card(lambda card: card.latent is None, "the attention is latent")
latent = any_card(lambda card: card.latent is not None, "the attention is not latent")

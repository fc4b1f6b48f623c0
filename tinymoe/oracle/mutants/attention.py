"""Wrong attention: scale, norms, heads, what is seen, sinks, latent attention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinymoe.core import AttentionCard
from tinymoe.model.params import AttentionParams
from tinymoe.oracle.mutants.looking import (
    MIX,
    OUT,
    K,
    Q,
    any_card,
    any_params,
    cards_rolled,
    dims_before_heads,
    heads_tiled,
    keys_for_values,
    latent,
    latent_rows,
    norms_for_each_other,
    not_latent,
    on_latent,
    on_params,
    query_order,
    seeing,
    values_first,
)
from tinymoe.oracle.mutants.mutant import (
    ModelMutant,
    attention_cards,
    attention_params,
    first_of,
    latent_params,
    looking_back,
    model_mutant,
    unless,
)


def _nope_scale(card: AttentionCard) -> AttentionCard:
    if card.latent is None:
        return card
    width = card.latent.nope_dim + card.latent.rope_dim
    return replace(card, scale=card.scale * (width / card.latent.nope_dim) ** 0.5)


_normed = any_params(
    lambda own: isinstance(own, AttentionParams) and own.qk_norm is not None,
    "queries and keys have no norm",
)

ATTENTION: tuple[ModelMutant, ...] = (
    model_mutant(
        "attention.scale-lost",
        "scores are not divided by the root of the head size",
        MIX,
        attention_cards(lambda card: replace(card, scale=1.0)),
        why_not=any_card(lambda card: card.scale != 1, "the scale is 1"),
    ),
    model_mutant(
        "attention.scale-twice",
        "the queries are scaled, and the scores once more",
        MIX,
        attention_cards(lambda card: replace(card, scale=card.scale**2)),
        why_not=any_card(lambda card: card.scale != 1, "the scale is 1"),
    ),
    model_mutant(
        "attention.scale-of-hidden-per-head",
        "the scale is 1 / sqrt(H / Nq) where the head size is another",
        MIX,
        lambda s: attention_cards(
            lambda card: replace(card, scale=(s.config.hidden_size / s.config.heads) ** -0.5)
        )(s),
        why_not=first_of(
            not_latent,
            unless(
                lambda s: s.config.hidden_size == s.config.heads * s.config.head_dim,
                "the head size is H / Nq",
            ),
        ),
    ),
    model_mutant(
        "attention.heads-tiled",
        "query head h reads key head h mod Nk in place of h // (Nq / Nk)",
        MIX,
        heads_tiled,
        why_not=first_of(
            not_latent,
            unless(
                lambda s: s.config.kv_heads in (1, s.config.heads),
                "there is one key head for all, or one for each",
            ),
        ),
    ),
    model_mutant(
        "attention.blind-to-itself",
        "a token does not see its own key",
        MIX,
        seeing(lambda i, first, length: (min(first, max(i - 1, 0)), max(i, 1))),
    ),
    model_mutant(
        "attention.sees-the-next",
        "a token sees the key after its own",
        MIX,
        seeing(lambda i, first, length: (first, min(i + 2, length))),
    ),
    model_mutant(
        "attention.keys-for-values",
        "the fused matrix is read as queries, values, keys",
        K,
        on_params(keys_for_values),
        why_not=not_latent,
    ),
    model_mutant(
        "attention.dims-before-heads",
        "the queries' rows are read as (D, Nq) in place of (Nq, D)",
        Q,
        on_params(dims_before_heads),
        why_not=not_latent,
    ),
    model_mutant(
        "attention.qk-norm-lost",
        "queries and keys are not normed",
        Q,
        attention_params(lambda p: replace(p, qk_norm=None)),
        why_not=_normed,
    ),
    model_mutant(
        "attention.qk-norm-after-rope",
        "queries and keys are normed after rope where it must be before, or the other way round",
        Q,
        attention_cards(lambda c: replace(c, qk_norm_after_rope=not c.qk_norm_after_rope)),
        why_not=first_of(
            _normed,
            any_card(
                lambda c: c.rope is not None and c.qk_norm in ("per_head", "all_heads"),
                "a norm without weights commutes with rope",
            ),
        ),
    ),
    model_mutant(
        "attention.qk-norm-exchanged",
        "the queries' norm weight is used for the keys, and the other way round",
        Q,
        on_params(norms_for_each_other),
        why_not=any_card(lambda c: c.qk_norm == "per_head", "queries and keys have no norms"),
    ),
    model_mutant(
        "attention.qk-norm-by-head",
        "each head is normed by itself where all of a kind are normed as one",
        Q,
        attention_cards(lambda c: replace(c, qk_norm="per_head")),
        why_not=any_card(lambda c: c.qk_norm == "all_heads", "heads are not normed as one"),
    ),
    model_mutant(
        "attention.qkv-bias-lost",
        "the bias of queries, keys and values is not added",
        Q,
        attention_params(lambda p: replace(p, qkv_bias=None)),
        why_not=any_params(lambda p: getattr(p, "qkv_bias", None) is not None, "there is none"),
    ),
    model_mutant(
        "attention.out-bias-lost",
        "the bias of the output projection is not added",
        OUT,
        attention_params(lambda p: replace(p, out_bias=None)),
        why_not=any_params(lambda p: getattr(p, "out_bias", None) is not None, "there is none"),
    ),
    model_mutant(
        "attention.clip-lost",
        "queries, keys and values are not clipped",
        Q,
        attention_cards(lambda c: replace(c, clip=None)),
        why_not=any_card(lambda c: c.clip is not None, "nothing is clipped"),
    ),
    model_mutant(
        "attention.temperature-lost",
        "queries do not grow with the position",
        Q,
        attention_cards(lambda c: replace(c, temperature=None)),
        why_not=any_card(lambda c: c.temperature is not None, "there is no temperature"),
    ),
    model_mutant(
        "latent.scale-of-nope-alone",
        "the scale counts the dimensions without rope alone",
        MIX,
        attention_cards(_nope_scale),
        why_not=latent,
    ),
    model_mutant(
        "latent.norm-weight-lost",
        "the norm of the latent vector has no weight",
        K,
        latent_params(lambda p: replace(p, latent_norm=np.ones_like(p.latent_norm))),
        why_not=latent,
    ),
    model_mutant(
        "latent.shared-key-first",
        "the down projection's rows are read as shared key, then latent vector",
        K,
        on_latent(latent_rows),
        why_not=latent,
    ),
    model_mutant(
        "latent.query-rope-first",
        "each query head's rows are read as rope part, then the rest",
        Q,
        on_latent(query_order),
        why_not=latent,
    ),
    model_mutant(
        "latent.values-before-keys",
        "each head's rows of the up projection are read as values, then keys",
        K,
        on_latent(values_first),
        why_not=latent,
    ),
)

WINDOW: tuple[ModelMutant, ...] = (
    model_mutant(
        "window.off-by-one",
        "a window of W shows W keys before the token's own",
        MIX,
        attention_cards(lambda c: c if c.window is None else replace(c, window=c.window + 1)),
        why_not=(windowed := any_card(lambda c: c.window is not None, "there is no window")),
    ),
    model_mutant(
        "window.lost",
        "all keys are seen where a window hides the older ones",
        MIX,
        attention_cards(lambda c: replace(c, window=None)),
        why_not=windowed,
    ),
    model_mutant(
        "window.wrong-layers",
        "the layers with a window are one off",
        MIX,
        cards_rolled,
        why_not=unless(
            lambda s: len({card.window for card in looking_back(s.config)}) == 1,
            "all layers have the same window",
        ),
    ),
    model_mutant(
        "window.chunk-lost",
        "all keys are seen where a chunk hides the earlier ones",
        MIX,
        attention_cards(lambda c: replace(c, chunk=None)),
        why_not=(chunked := any_card(lambda c: c.chunk is not None, "there are no chunks")),
    ),
    model_mutant(
        "window.chunk-as-window",
        "the chunk is taken as a sliding window",
        MIX,
        attention_cards(lambda c: replace(c, chunk=None, window=c.chunk or c.window)),
        why_not=chunked,
    ),
)

_sunk = any_params(lambda p: getattr(p, "sinks", None) is not None, "there are no sinks")

SINKS: tuple[ModelMutant, ...] = (
    model_mutant(
        "sinks.lost",
        "the sinks take no part in the softmax",
        MIX,
        attention_params(lambda p: replace(p, sinks=None)),
        why_not=_sunk,
    ),
    model_mutant(
        "sinks.wrong-heads",
        "each head has its neighbour's sink",
        MIX,
        attention_params(
            lambda p: replace(p, sinks=None if p.sinks is None else np.roll(p.sinks, 1))
        ),
        why_not=_sunk,
    ),
    model_mutant(
        "sinks.scaled",
        "the sinks are multiplied by the attention's scale, as if they were products q . k",
        MIX,
        on_params(
            lambda p, s: replace(
                p,
                sinks=None
                if p.sinks is None
                else (p.sinks * s.config.head_dim**-0.5).astype(p.sinks.dtype),
            )
        ),
        why_not=_sunk,
    ),
)

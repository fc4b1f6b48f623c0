"""Multi-head latent attention: keys and values of all heads grow out of one short vector.

    c = norm(first R of down x)          k_rope = rope(the other Dr of down x), one for all heads
    k_h = [up_k,h c | k_rope]            v_h = up_v,h c

DeepSeek-V2 (arXiv:2405.04434), section 2.1. Two forms of one function:

expanded   caches k_h and v_h of every head, as other attention does.
absorbed   caches [c | k_rope] alone. (up_k,h c) . q = c . (up_k,h' q), so the query is folded
           instead, and attention runs in the latent space, all heads on one key; its mix of c
           then grows into the value. Other sums, so other last bits.
"""

from __future__ import annotations

from tinymoe.core import Array, AttentionCard, LatentCard
from tinymoe.model.attention import write_pages
from tinymoe.model.context import Pass, finish, look_back, norm, project, turn
from tinymoe.model.params import LatentParams
from tinymoe.model.precision import array_module, store, vecdot
from tinymoe.model.weights import QuantisedInput, plain


def latent_block(
    normed: Array,
    params: LatentParams,
    pages: tuple[Array, Array],
    card: AttentionCard,
    latent: LatentCard,
    this: Pass,
    name: str,
) -> Array:
    """Project, turn, remember, look back, project: (T, H) -> (T, H)."""
    q = _queries(normed, params, card, latent, this)  # (T, Nq, Dn + Dr)
    down = project(normed, params.down, params.down_bias, this)  # (T, R + Dr)
    c = norm(_own(down[:, : latent.rank]), params.latent_norm, this, eps=latent.norm_eps)  # (T, R)
    k_rope = turn(_own(down[:, None, latent.rank :]), card, this)  # (T, 1, Dr)
    attend = _expanded if latent.form == "expanded" else _absorbed
    mix = attend(q, c, k_rope, params, pages, card, latent, this, name)  # (T, Nq, Dv)
    mix = mix.reshape(len(normed), -1)  # (T, Nq*Dv)
    return finish(mix, params.out, params.out_bias, this, name)


def _queries(
    normed: Array, params: LatentParams, card: AttentionCard, latent: LatentCard, this: Pass
) -> Array:
    """The heads' queries, their rope part turned: (T, H) -> (T, Nq, Dn + Dr)."""
    if params.query_down is not None and params.query_norm is not None:
        low = project(normed, params.query_down, params.query_down_bias, this)  # (T, Rq)
        normed = norm(low, params.query_norm, this, eps=latent.norm_eps)
    flat = project(normed, params.query, None, this)
    q = flat.reshape(len(normed), this.config.heads, -1)  # (T, Nq, Dn + Dr)
    turned = turn(_own(q[..., latent.nope_dim :]), card, this)  # (T, Nq, Dr)
    return array_module(q).concatenate([q[..., : latent.nope_dim], turned], axis=-1)


def _expanded(
    q: Array,
    c: Array,
    k_rope: Array,
    params: LatentParams,
    pages: tuple[Array, Array],
    card: AttentionCard,
    latent: LatentCard,
    this: Pass,
    name: str,
) -> Array:
    """Keys and values of every head, cached as such: (T, Nq, Dv)."""
    xp, heads = array_module(q), this.config.heads
    up = params.up
    flat = up.matrix() if isinstance(up, QuantisedInput) else up.reshape(-1, latent.rank)
    grown = project(c, flat, None, this)
    grown = grown.reshape(len(c), heads, -1)  # (T, Nq, Dn + Dv)
    shared = xp.broadcast_to(k_rope, (len(c), heads, latent.rope_dim))
    k = xp.concatenate([grown[..., : latent.nope_dim], shared], axis=-1)  # (T, Nq, Dn + Dr)
    v = grown[..., latent.nope_dim :]  # (T, Nq, Dv)
    for letter, value in (("q", q), ("k", k), ("v", v)):
        this.tap(f"{name}.{letter}", value)
    for held, new in zip(pages, (k, v), strict=True):
        write_pages(held, this.lookups.slots, new)
    return look_back(q, pages, card, None, this)


def _absorbed(
    q: Array,
    c: Array,
    k_rope: Array,
    params: LatentParams,
    pages: tuple[Array, Array],
    card: AttentionCard,
    latent: LatentCard,
    this: Pass,
    name: str,
) -> Array:
    """One key [c | k_rope] for all heads, whose first R numbers are the value: (T, Nq, Dv)."""
    xp, storage = array_module(q), this.numerics.storage
    # engines fold dequantised values in; c is no input of a product here, so it is not quantised
    up = plain(params.up)
    to_key, to_value = up[:, : latent.nope_dim], up[:, latent.nope_dim :]
    folded = vecdot(q[:, :, None, : latent.nope_dim], to_key.transpose(0, 2, 1))  # (T, Nq, R)
    q = xp.concatenate([store(folded, storage), q[..., latent.nope_dim :]], axis=-1)
    k = xp.concatenate([c[:, None], k_rope], axis=-1)  # (T, 1, R + Dr)
    for letter, value in (("q", q), ("k", k), ("v", k[..., : latent.rank])):
        this.tap(f"{name}.{letter}", value)
    write_pages(pages[0], this.lookups.slots, k)  # the value pages are a part of these
    mix = look_back(q, pages, card, None, this)  # (T, Nq, R)
    return store(vecdot(mix[:, :, None], to_value), storage)  # (T, Nq, Dv)


def _own(part: Array) -> Array:
    """A part of an array as an array of its own: kernels take whole rows."""
    return array_module(part).ascontiguousarray(part)

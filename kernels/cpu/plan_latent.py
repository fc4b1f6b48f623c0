"""Latent attention (DeepSeek) as instructions: `model/latent.py`, in both of its forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinymoe.core import Array, AttentionCard, LatentCard
from tinymoe.kernels.cpu import linear as product
from tinymoe.kernels.cpu.latent import by_head
from tinymoe.kernels.cpu.norm import rmsnorm
from tinymoe.kernels.cpu.pack import Packed
from tinymoe.kernels.cpu.pages import write_keys, write_values
from tinymoe.kernels.cpu.plan_attention import Looking, look_back, put_in_pages
from tinymoe.kernels.cpu.rope import rope
from tinymoe.kernels.cpu.weights import Latent

if TYPE_CHECKING:
    from tinymoe.kernels.cpu.plan import Plan


def plan_latent(
    plan: Plan, x: Array, params: Latent, card: AttentionCard, latent: LatentCard, layer: int
) -> Array:
    """Norm, project, turn, remember, look back, project, residual: x (T, H) -> (T, H)."""
    config, name = plan.config, f"layers.{layer}"
    width, heads = config.hidden_size, config.heads
    normed = plan.norm(x, params.norm, f"{name}.attn.norm")
    plan.tap(f"{name}.attn.norm", normed, width)
    q = _queries(plan, normed, params, latent, name)
    down = plan.buffers.rows("down", latent.rank + latent.rope_dim)
    plan.product(normed, params.down, down, bias=params.down_bias)
    row = plan.buffers.rows(f"{name}/latent", latent.rank + latent.rope_dim)  # [c | k_rope]
    _norm(plan, down, params.latent_norm, latent.rank, latent, row)
    _turn(plan, down[:, latent.rank :], 0, row[:, latent.rank :], 0, 1, latent, card)
    form = _expanded if latent.form == "expanded" else _absorbed
    mix = form(plan, q, down, row, params, card, latent, layer)
    plan.tap(f"{name}.attn.mix", mix, heads * latent.value_dim)
    out, part = plan.sum_of(name, "mid"), plan.part_of(f"{name}.attn.out")
    plan.product(mix, params.out, out, bias=params.out_bias, residual=x, part=part)
    if part is not None:
        plan.tap(f"{name}.attn.out", part, width)
    plan.tap(f"{name}.mid", out, width)
    return out


def _queries(plan: Plan, normed: Array, params: Latent, latent: LatentCard, name: str) -> Array:
    """The heads' queries, not turned yet: (T, Nq (Dn + Dr))."""
    q = plan.buffers.rows(f"{name}/q", plan.config.heads * (latent.nope_dim + latent.rope_dim))
    if params.query_down is not None and params.query_norm is not None:
        rank = params.query_down.rows
        low = plan.buffers.rows("query_low", rank)
        plan.product(normed, params.query_down, low, bias=params.query_down_bias)
        _norm(plan, low, params.query_norm, rank, latent, low)
        normed = low
    plan.product(normed, params.query, q)
    return q


def _norm(plan: Plan, x: Array, weight: Array, width: int, latent: LatentCard, out: Array) -> None:
    plan.program.add(
        rmsnorm,
        x=x,
        x_stride=x.shape[1],
        parts=1,
        part_stride=0,
        width=width,
        weight=weight,
        weight_stride=0,
        eps=latent.norm_eps,
        out=out,
        out_stride=out.shape[1],
        out_part_stride=0,
        rounding=plan.rounding,
        rounds_before_weight=plan.config.norm_rounds_before_weight,
    )


def _turn(
    plan: Plan,
    x: Array,
    x_head: int,
    out: Array,
    out_head: int,
    heads: int,
    latent: LatentCard,
    card: AttentionCard,
) -> None:
    """Rope of Dr numbers of each head; `x_head` 0: all heads are given the same."""
    assert card.rope is not None  # the family reads no other
    plan.program.add(
        rope,
        x=x,
        x_stride=x.strides[0] // 4,
        x_head=x_head,
        out=out,
        out_stride=out.strides[0] // 4,
        out_head=out_head,
        heads=heads,
        dim=latent.rope_dim,
        rotary_dim=card.rope.rotary_dim,
        interleaved=card.rope.pairing != "half",
        turns=plan.turns_of(card.rope).words,
        rounding=plan.rounding,
    )


def _by_head(plan: Plan, x: Array, x_head: int, weight: Packed, out: Array, out_head: int) -> None:
    """Each head's piece of x times its own matrix."""
    arguments = product.tiles_of(weight)
    plan.program.add(
        by_head,
        x=x,
        x_stride=x.strides[0] // 4,
        x_head=x_head,
        heads=weight.experts,
        rows=weight.rows,
        out=out,
        out_stride=out.strides[0] // 4,
        out_head=out_head,
        rounding=plan.rounding,
        **arguments,
    )


def _expanded(
    plan: Plan,
    q: Array,
    down: Array,
    row: Array,
    params: Latent,
    card: AttentionCard,
    latent: LatentCard,
    layer: int,
) -> Array:
    """Keys and values of every head, cached as such: (T, Nq*Dv)."""
    name, heads = f"layers.{layer}", plan.config.heads
    nope, key_dim = latent.nope_dim, latent.nope_dim + latent.rope_dim
    k = plan.buffers.rows(f"{name}/k", heads * key_dim)
    v = plan.buffers.rows(f"{name}/v", heads * latent.value_dim)
    _turn(plan, q[:, nope:], key_dim, q[:, nope:], key_dim, heads, latent, card)
    _by_head(plan, row, 0, params.to_key, k, key_dim)
    _turn(plan, down[:, latent.rank :], 0, k[:, nope:], key_dim, heads, latent, card)
    _by_head(plan, row, 0, params.to_value, v, latent.value_dim)
    for letter, values, width in (("q", q, key_dim), ("k", k, key_dim), ("v", v, latent.value_dim)):
        plan.tap(f"{name}.attn.{letter}", values, heads * width, (heads, width))
    keys, pages = plan.pages(layer)
    put_in_pages(plan, write_keys, k, heads, key_dim, keys, layer)
    put_in_pages(plan, write_values, v, heads, latent.value_dim, pages, layer)
    looking = Looking(heads, heads, key_dim, latent.value_dim, keys, pages)
    return look_back(plan, q, looking, card, layer)


def _absorbed(
    plan: Plan,
    q: Array,
    down: Array,
    row: Array,
    params: Latent,
    card: AttentionCard,
    latent: LatentCard,
    layer: int,
) -> Array:
    """One key [c | k_rope] for all heads, whose first R numbers are the value: (T, Nq*Dv)."""
    name, heads, rank = f"layers.{layer}", plan.config.heads, latent.rank
    nope, key_dim = latent.nope_dim, latent.nope_dim + latent.rope_dim
    wide = rank + latent.rope_dim
    folded = plan.buffers.rows(f"{name}/folded", heads * wide)
    _by_head(plan, q, key_dim, params.fold, folded, wide)
    _turn(plan, q[:, nope:], key_dim, folded[:, rank:], wide, heads, latent, card)
    plan.tap(f"{name}.attn.q", folded, heads * wide, (heads, wide))
    plan.tap(f"{name}.attn.k", row, wide, (1, wide))
    plan.tap(f"{name}.attn.v", row, rank, (1, rank))
    keys, values = plan.pages(layer)
    put_in_pages(plan, write_keys, row, 1, wide, keys, layer)
    put_in_pages(plan, write_values, row, 1, rank, values, layer)
    mixed = look_back(plan, folded, Looking(heads, 1, wide, rank, keys, values), card, layer)
    mix = plan.buffers.rows(f"{name}/grown", heads * latent.value_dim)
    _by_head(plan, mixed, rank, params.to_value, mix, latent.value_dim)
    return mix

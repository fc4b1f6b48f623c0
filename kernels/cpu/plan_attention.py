"""The attention half of a layer as instructions: `model/attention_block.py`, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinymoe.core import Array, AttentionCard, ModelConfig, Numerics, RopeCard
from tinymoe.kernels.cpu import attention as looking
from tinymoe.kernels.cpu.blocks import row_bytes
from tinymoe.kernels.cpu.heads import prepare
from tinymoe.kernels.cpu.kernel import Kernel
from tinymoe.kernels.cpu.norm import rmsnorm
from tinymoe.kernels.cpu.weights import Attention
from tinymoe.model.rope import rope_tables

if TYPE_CHECKING:
    from tinymoe.kernels.cpu.plan import Plan

POSITIONS = 1024  # of a first table; it doubles as sequences grow


class Turns:
    """Cosines and sines of one rope card, of all positions that a step has met, and more."""

    def __init__(self, card: RopeCard, numerics: Numerics) -> None:
        self.card, self.numerics = card, numerics
        self.words = np.zeros(2, np.int64)  # where kernels find both
        self._made: tuple[Array, ...] = ()
        self._positions = 0

    def reach(self, positions: int) -> None:
        """Have those of so many positions, as `rope_tables` has them: (positions, d/2) each."""
        if positions > self._positions:
            self._positions = max(POSITIONS, 1 << (positions - 1).bit_length())
            made = rope_tables(np.arange(self._positions), self.card, self.numerics)
            self._made = tuple(np.ascontiguousarray(each[:, 0]) for each in made)
            self.words[:] = [each.ctypes.data for each in self._made]


def own_words(config: ModelConfig) -> int:
    """What attention needs of a thread's memory, in 8 bytes each."""
    sizes = {config.head_dim}
    for card in config.attention:
        if isinstance(card, AttentionCard) and card.latent is not None:
            sizes |= {card.latent.value_dim, card.latent.rank}
    return max(looking.own_bytes(of) for of in sizes) // 8 + 8


def plan_attention(plan: Plan, x: Array, params: Attention, layer: int) -> Array:
    """Norm, project, turn, remember, look back, project, residual: x (T, H) -> (T, H)."""
    config, name = plan.config, f"layers.{layer}"
    card, width, dim = plan.attention_card(layer), config.hidden_size, config.head_dim
    heads, kv_heads = config.heads, config.kv_heads
    normed = plan.norm(x, params.norm, f"{name}.attn.norm")
    plan.tap(f"{name}.attn.norm", normed, width)
    qkv = plan.buffers.rows(f"{name}/qkv", (config.heads + 2 * config.kv_heads) * dim)
    plan.product(normed, params.qkv, qkv, bias=params.qkv_bias)
    keys, values = plan.pages(layer)
    _prepare(plan, qkv, params, card, layer, keys, values)
    at = 0
    for letter, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        part = qkv[:, at : at + count * dim]
        plan.tap(f"{name}.attn.{letter}", part, count * dim, (count, dim))
        at += count * dim
    at_pages = Looking(heads, kv_heads, dim, dim, keys, values)
    mix = look_back(plan, qkv, at_pages, card, layer, params.sinks)
    plan.tap(f"{name}.attn.mix", mix, config.heads * dim)
    out, part_of = plan.sum_of(name, "mid"), plan.part_of(f"{name}.attn.out")
    plan.product(mix, params.out, out, bias=params.out_bias, residual=x, part=part_of)
    if part_of is not None:
        plan.tap(f"{name}.attn.out", part_of, width)
    plan.tap(f"{name}.mid", out, width)
    return out


def _prepare(
    plan: Plan,
    qkv: Array,
    params: Attention,
    card: AttentionCard,
    layer: int,
    keys: Array,
    values: Array,
) -> None:
    """Norm of queries and keys, clip and rope, in place, in the order that the card says; pages."""
    config, weight, rope = plan.config, params.qk_norm, card.rope
    if weight is not None and card.qk_norm == "all_heads":
        _norm_all(plan, qkv, weight)
        weight = None
    plan.program.add(
        prepare,
        x=qkv,
        x_stride=qkv.shape[1],
        heads=config.heads,
        kv_heads=config.kv_heads,
        dim=config.head_dim,
        weight=weight,
        eps=config.rms_norm_eps,
        rounds_before_weight=config.norm_rounds_before_weight,
        norm_after_rope=card.qk_norm_after_rope,
        limit=float(card.clip or 0),
        rotary_dim=0 if rope is None else rope.rotary_dim,
        interleaved=rope is not None and rope.pairing != "half",
        turns=None if rope is None else plan.turns_of(rope).words,
        rounding=plan.rounding,
        keys=keys,
        values=values,
        item=keys.itemsize,
        group=config.group_of(layer),
    )


def _norm_all(plan: Plan, qkv: Array, weight: Array) -> None:
    """All queries of a token as one vector, and all keys."""
    config = plan.config
    first = 0
    for heads in (config.heads, config.kv_heads):
        at, width = qkv[:, first:], heads * config.head_dim
        plan.program.add(
            rmsnorm,
            x=at,
            x_stride=qkv.shape[1],
            parts=1,
            part_stride=0,
            width=width,
            weight=weight[first:],
            weight_stride=0,
            eps=config.rms_norm_eps,
            out=at,
            out_stride=qkv.shape[1],
            out_part_stride=0,
            rounding=plan.rounding,
            rounds_before_weight=config.norm_rounds_before_weight,
        )
        first += width


class Looking(NamedTuple):
    """Who looks back at what: sizes of heads, and pages."""

    heads: int
    kv_heads: int
    dim: int  # D
    value_dim: int  # Dv
    keys: Array
    values: Array


def put_in_pages(
    plan: Plan, kernel: Kernel, x: Array, heads: int, width: int, pages: Array, layer: int
) -> None:
    """Each token's `heads` pieces of `width` numbers to its slot; kernel: of keys or of values."""
    plan.program.add(
        kernel,
        x=x,
        x_stride=x.strides[0] // 4,
        x_head=width,
        heads=heads,
        width=width,
        pages=pages,
        group=plan.config.group_of(layer),
        item=pages.itemsize,
    )


def look_back(
    plan: Plan,
    q: Array,
    at: Looking,
    card: AttentionCard,
    layer: int,
    sinks: Array | None = None,
) -> Array:
    """Every token over what it sees: q (T, Nq*D) -> (T, Nq*Dv)."""
    mix = plan.buffers.rows(f"layers.{layer}/mix", at.heads * at.value_dim)
    context = at.keys.shape[0] * plan.page_size
    rows = looking.record_rows(plan.threads, at.heads, at.kv_heads, context)
    records = plan.buffers.numbers("records", rows * row_bytes(at.value_dim) // 8)
    common: dict[str, Any] = {
        "q": q, "q_stride": q.strides[0] // 4, "heads": at.heads, "kv_heads": at.kv_heads,
        "dim": at.dim, "value_dim": at.value_dim,
        "key_pages": at.keys, "value_pages": at.values, "group": plan.config.group_of(layer),
        "scale": float(card.scale), "window": card.window, "chunk": card.chunk,
        "sinks": sinks, "out": mix, "out_stride": mix.shape[1],
        "rounding": plan.rounding, "records": records, "room": rows,
        **looking.helpers(at.keys.itemsize),
    }  # fmt: skip
    plan.program.add(looking.attend, **common)
    plan.program.add(looking.merge, **common)
    return mix

"""The attention half of a layer as instructions: `model/attention_block.py`, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinymoe.core import Array, AttentionCard, ModelConfig, Numerics, RopeCard
from tinymoe.kernels.cpu import attention as looking
from tinymoe.kernels.cpu.blocks import row_bytes
from tinymoe.kernels.cpu.heads import clip
from tinymoe.kernels.cpu.kernel import Kernel
from tinymoe.kernels.cpu.norm import rmsnorm
from tinymoe.kernels.cpu.pages import write_keys, write_values
from tinymoe.kernels.cpu.rope import rope
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
    _prepare(plan, qkv, params, card)
    at = 0
    for letter, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        part = qkv[:, at : at + count * dim]
        plan.tap(f"{name}.attn.{letter}", part, count * dim, (count, dim))
        at += count * dim
    keys, values = plan.pages(layer)
    put_in_pages(plan, write_keys, qkv[:, heads * dim :], kv_heads, dim, keys, layer)
    new_values = qkv[:, (heads + kv_heads) * dim :]
    put_in_pages(plan, write_values, new_values, kv_heads, dim, values, layer)
    at_pages = Looking(heads, kv_heads, dim, dim, keys, values)
    mix = look_back(plan, qkv, at_pages, card, layer, params.sinks)
    plan.tap(f"{name}.attn.mix", mix, config.heads * dim)
    out, part_of = plan.sum_of(name, "mid"), plan.part_of(f"{name}.attn.out")
    plan.product(mix, params.out, out, bias=params.out_bias, residual=x, part=part_of)
    if part_of is not None:
        plan.tap(f"{name}.attn.out", part_of, width)
    plan.tap(f"{name}.mid", out, width)
    return out


def _prepare(plan: Plan, qkv: Array, params: Attention, card: AttentionCard) -> None:
    """Norm of queries and keys, clip and rope, in place, in the order that the card says."""
    config = plan.config
    dim, turning = config.head_dim, config.heads + config.kv_heads
    if not card.qk_norm_after_rope:
        _norm_heads(plan, qkv, params, card)
    if card.clip is not None:
        every = (turning + config.kv_heads) * dim
        plan.program.add(clip, x=qkv, x_stride=qkv.shape[1], width=every, limit=float(card.clip))
    if card.rope is not None:
        plan.program.add(
            rope,
            x=qkv,
            x_stride=qkv.shape[1],
            x_head=dim,
            out=qkv,
            out_stride=qkv.shape[1],
            out_head=dim,
            heads=turning,
            dim=dim,
            rotary_dim=card.rope.rotary_dim,
            interleaved=card.rope.pairing != "half",
            turns=plan.turns_of(card.rope).words,
            rounding=plan.rounding,
        )
    if card.qk_norm_after_rope:
        _norm_heads(plan, qkv, params, card)


def _norm_heads(plan: Plan, qkv: Array, params: Attention, card: AttentionCard) -> None:
    """Each head by itself, or all of a kind as one."""
    if params.qk_norm is None:
        return
    config = plan.config
    dim, heads = config.head_dim, (config.heads, config.kv_heads)
    pieces = [(0, sum(heads), dim)]  # first number, parts, width of each
    if card.qk_norm == "all_heads":
        pieces = [(0, 1, heads[0] * dim), (heads[0] * dim, 1, heads[1] * dim)]
    for first, parts, width in pieces:
        at = qkv[:, first:]
        plan.program.add(
            rmsnorm,
            x=at,
            x_stride=qkv.shape[1],
            parts=parts,
            part_stride=width,
            width=width,
            weight=params.qk_norm[first:],
            weight_stride=width,
            eps=config.rms_norm_eps,
            out=at,
            out_stride=qkv.shape[1],
            out_part_stride=width,
            rounding=plan.rounding,
            rounds_before_weight=config.norm_rounds_before_weight,
        )


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

"""The whole model: `forward` walks the layers. The same function generates, traces and checks.

A layer is `h = x + attention(norm(x))`, then `y = h + moe(norm(h))`.
"""

from __future__ import annotations

from typing import NamedTuple

from tinymoe.core import Array, Batch, ModelConfig, Numerics, PagedKeysValues, Run, Tap
from tinymoe.model.attention import slots_of, write_pages
from tinymoe.model.experts import ffn, unpermute
from tinymoe.model.ops import DEFINITION, Ops
from tinymoe.model.params import AttentionParams, DenseParams, MoeParams, Params
from tinymoe.model.precision import array_module, linear_unrounded, store
from tinymoe.model.rope import rope_tables


class Lookups(NamedTuple):
    """Where a batch's tokens live in the cache, and who looks back at what: once per pass."""

    slots: Array  # (T,) page number * P + place in the page
    decode_rows: Array  # (R,) rows of runs of one token
    decode_tables: list[Array]  # their block tables
    decode_lengths: list[int]  # keys that each of them sees
    prefills: list[Run]  # the longer runs

    @classmethod
    def of(cls, batch: Batch, page_size: int) -> Lookups:
        """Work them out."""
        xp = array_module(batch.ids)
        slots = [slots_of(batch.positions[run.rows], run.pages, page_size) for run in batch.runs]
        single = [run for run in batch.runs if run.stop - run.start == 1]
        return cls(
            slots=xp.concatenate(slots),
            decode_rows=xp.array([run.rows.start for run in single], dtype=xp.int64),
            decode_tables=[run.pages for run in single],
            decode_lengths=[run.stop for run in single],
            prefills=[run for run in batch.runs if run.stop - run.start > 1],
        )


class Pass(NamedTuple):
    """What stays the same from the first layer of one forward pass to the last."""

    config: ModelConfig
    lookups: Lookups
    turns: tuple[Array, Array]  # cosines and sines of the batch's positions, (T, 1, d/2) each
    numerics: Numerics
    ops: Ops
    tap: Tap


def no_tap(name: str, value: Array) -> None:
    """Looks away."""


def forward(
    params: Params,
    config: ModelConfig,
    batch: Batch,
    cache: PagedKeysValues,
    numerics: Numerics,
    ops: Ops = DEFINITION,
    tap: Tap = no_tap,
) -> Array:
    """Run T tokens through all layers; logits (R, V) of `batch.logit_rows`.

    Reads and writes the pages named by the batch's runs, nothing else in the cache. Logits are
    in `numerics.accumulate`, not rounded to storage. A token's values depend on its own sequence
    alone: not on the batch, its order, or how a prompt was cut.
    `tap` sees every activation, named as in the trace schema (`tinymoe-trace/1`).
    """
    turns = rope_tables(batch.positions, config.rope, numerics)
    this = Pass(config, Lookups.of(batch, cache.page_size), turns, numerics, ops, tap)
    tap("tokens", batch.ids)
    x = store(params.embed[batch.ids], numerics.storage)  # (T, H)
    tap("embed", x)
    for index, layer in enumerate(params.layers):
        name = f"layers.{index}"
        mixed = attention_block(x, layer.attention, cache.layer(index), this, f"{name}.attn")
        x = store(x + mixed, numerics.storage)  # (T, H)
        tap(f"{name}.mid", x)
        fed = (
            moe_block(x, layer.ffn, this, name)
            if isinstance(layer.ffn, MoeParams)
            else dense_block(x, layer.ffn, this, f"{name}.mlp")
        )
        x = store(x + fed, numerics.storage)  # (T, H)
        tap(f"{name}.out", x)
    x = norm(x, params.final_norm, this)
    tap("final_norm", x)
    logits = linear_unrounded(x[batch.logit_rows], params.head)  # (R, V)
    tap("logits", logits)
    return logits


def norm(x: Array, weight: Array, this: Pass) -> Array:
    """RMSNorm as this model's family does it."""
    config = this.config
    return this.ops.rmsnorm(
        x,
        weight,
        config.rms_norm_eps,
        this.numerics,
        rounds_before_weight=config.norm_rounds_before_weight,
    )


def attention_block(
    x: Array, params: AttentionParams, pages: tuple[Array, Array], this: Pass, name: str
) -> Array:
    """Norm, project, turn, remember, look back, project: x (T, H) -> (T, H)."""
    config, ops, numerics, tap = this.config, this.ops, this.numerics, this.tap
    tokens, turning = len(x), config.heads + config.kv_heads  # heads that rope turns
    normed = norm(x, params.norm, this)  # (T, H)
    tap(f"{name}.norm", normed)
    qkv = ops.linear(normed, params.qkv, numerics)  # (T, (Nq + 2 Nk)*D)
    heads = qkv.reshape(tokens, -1, config.head_dim)  # (T, Nq + 2 Nk, D)
    qk, v = heads[:, :turning], heads[:, turning:]
    if params.qk_norm is not None:  # each head by itself, before rope
        qk = norm(qk, params.qk_norm, this)
    qk = ops.rope(qk, this.turns, config.rope, numerics)  # (T, Nq + Nk, D)
    q, k = qk[:, : config.heads], qk[:, config.heads :]
    for letter, value in (("q", q), ("k", k), ("v", v)):
        tap(f"{name}.{letter}", value)
    for held, new in zip(pages, (k, v), strict=True):
        write_pages(held, this.lookups.slots, new)
    mix = look_back(q, pages, this).reshape(tokens, -1)  # (T, Nq*D)
    tap(f"{name}.mix", mix)
    out = ops.linear(mix, params.out, numerics)  # (T, H)
    tap(f"{name}.out", out)
    return out


def look_back(q: Array, pages: tuple[Array, Array], this: Pass) -> Array:
    """Attention of every run, q (T, Nq, D): single tokens as decodes, longer runs as prefills."""
    ops, numerics, scale, at = this.ops, this.numerics, this.config.attention_scale, this.lookups
    out = array_module(q).empty_like(q)  # (T, Nq, D)
    if len(at.decode_rows):
        out[at.decode_rows] = ops.attention_decode(
            q[at.decode_rows], *pages, at.decode_tables, at.decode_lengths, scale, numerics
        )
    for run in at.prefills:
        out[run.rows] = ops.attention_prefill(
            q[run.rows], *pages, run.pages, run.start, scale, numerics
        )
    return out


def moe_block(x: Array, params: MoeParams, this: Pass, name: str) -> Array:
    """Norm, route, permute, experts, combine: x (T, H) -> (T, H)."""
    card, ops, numerics, tap = this.config.router, this.ops, this.numerics, this.tap
    normed = norm(x, params.norm, this)  # (T, H)
    tap(f"{name}.moe.norm", normed)
    routing = ops.route(normed, params.router, params.selection_bias, card, numerics)
    for field, value in zip(routing._fields, routing, strict=True):
        tap(f"{name}.router.{field}", value)
    order, offsets = ops.permute(routing.ids, card.experts)  # (T*K,), (E + 1,)
    rows, weights = normed[order // card.top_k], routing.weights  # (T*K, H), (T, K)
    if card.weight_on == "input":
        rows = store(rows * weights.reshape(-1)[order, None], numerics.storage)
        weights = array_module(weights).ones_like(weights)
    rows = ops.expert_ffn(rows, params.gate_up, params.down, offsets, numerics)  # (T*K, H)
    expert_out = unpermute(rows, order, card.top_k)  # (T, K, H)
    tap(f"{name}.moe.expert_out", expert_out)
    routed = ops.combine(expert_out, weights, numerics)  # (T, H)
    tap(f"{name}.moe.routed", routed)
    tap(f"{name}.moe.out", routed)  # routed and shared experts together; here there are none
    return routed


def dense_block(x: Array, params: DenseParams, this: Pass, name: str) -> Array:
    """A layer without experts: norm and one feed-forward network, (T, H) -> (T, H)."""
    normed = norm(x, params.norm, this)  # (T, H)
    this.tap(f"{name}.norm", normed)
    out = ffn(normed, params.gate_up, params.down, this.numerics)
    this.tap(f"{name}.out", out)
    return out

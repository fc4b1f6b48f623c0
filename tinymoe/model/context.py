"""What one forward pass carries from layer to layer, and the steps that all layers share."""

from __future__ import annotations

from typing import NamedTuple

from tinymoe.core import (
    Array,
    AttentionCard,
    Batch,
    ModelConfig,
    Numerics,
    RopeCard,
    Run,
    Tap,
    TinymoeError,
)
from tinymoe.model.attention import slots_of
from tinymoe.model.norm import layernorm
from tinymoe.model.ops import Ops
from tinymoe.model.precision import array_module
from tinymoe.model.rope import rope_tables
from tinymoe.model.weights import Weight


class Lookups(NamedTuple):
    """Where a batch's tokens live in the cache, and who looks back at what: once per pass."""

    slots: Array  # (T,) page number * P + place in the page
    decode_rows: Array  # (R,) rows of runs of one token
    decode_tables: list[Array]  # their block tables
    decode_lengths: list[int]  # tokens of their sequences so far, these included
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
    positions: Array  # (T,)
    turns: dict[RopeCard, tuple[Array, Array]]  # cosines and sines, (T, 1, d/2) each
    numerics: Numerics
    ops: Ops
    tap: Tap


def turns_of(
    positions: Array, config: ModelConfig, numerics: Numerics
) -> dict[RopeCard, tuple[Array, Array]]:
    """The tables of every rope card that a layer has: most models have one."""
    cards = dict.fromkeys(card.rope for card in config.attention if card.rope is not None)
    return {card: rope_tables(positions, card, numerics) for card in cards}


def norm(
    x: Array, weight: Array, this: Pass, *, bias: Array | None = None, eps: float | None = None
) -> Array:
    """The norm of this model's family; `bias`: of a LayerNorm; `eps`: where a norm has its own.

    LayerNorm is no op of its own, as one family alone has it.
    """
    config = this.config
    if config.norm == "layer":
        if bias is None:
            raise TinymoeError(f"{config.family}: LayerNorm without a bias")
        return layernorm(x, weight, bias, config.rms_norm_eps, this.numerics)
    return this.ops.rmsnorm(
        x,
        weight,
        config.rms_norm_eps if eps is None else eps,
        this.numerics,
        rounds_before_weight=config.norm_rounds_before_weight,
    )


def project(x: Array, weight: Weight, bias: Array | None, this: Pass) -> Array:
    """The op `linear`; `bias` is named only where there is one."""
    if bias is None:
        return this.ops.linear(x, weight, this.numerics)
    return this.ops.linear(x, weight, this.numerics, bias=bias)


def turn(heads: Array, card: AttentionCard, this: Pass) -> Array:
    """Rope of one layer on heads (T, N, D); nothing where a layer has no positions."""
    if card.rope is None:
        return heads
    return this.ops.rope(heads, this.turns[card.rope], card.rope, this.numerics)


def look_back(
    q: Array,
    pages: tuple[Array, Array],
    card: AttentionCard,
    sinks: Array | None,
    this: Pass,
) -> Array:
    """Attention of every run, q (T, Nq, D): single tokens as decodes, longer runs as prefills.

    Window, chunk and sinks are named only where a layer has them: an implementation that does
    not know one of them fails instead of leaving it out.
    """
    ops, numerics, scale, at = this.ops, this.numerics, card.scale, this.lookups
    special = {"window": card.window, "chunk": card.chunk, "sinks": sinks}
    named = {name: value for name, value in special.items() if value is not None}
    width = pages[1].shape[-1]  # Dv
    out = array_module(q).empty((*q.shape[:2], width), dtype=q.dtype)  # (T, Nq, Dv)
    if len(at.decode_rows):
        out[at.decode_rows] = ops.attention_decode(
            q[at.decode_rows], *pages, at.decode_tables, at.decode_lengths, scale, numerics, **named
        )
    for run in at.prefills:
        out[run.rows] = ops.attention_prefill(
            q[run.rows], *pages, run.pages, run.start, scale, numerics, **named
        )
    return out

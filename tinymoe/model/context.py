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
from tinymoe.model.precision import array_module, store
from tinymoe.model.rope import rope_tables
from tinymoe.model.router import sigmoid
from tinymoe.model.weights import Weight


class Stretch(NamedTuple):
    """A run of several tokens, as the layers of one cache group see it."""

    rows: slice  # of the batch
    start: int  # position of its first token
    table: Array  # (pages,) block table


class Lookups(NamedTuple):
    """Where a batch's tokens live in one group's pages, and who looks back at what."""

    slots: Array  # (T,) page number * P + place in the page
    decode_rows: Array  # (R,) rows of runs of one token
    decode_tables: list[Array]  # their block tables
    decode_lengths: list[int]  # tokens of their sequences so far, these included
    prefills: list[Stretch]  # the longer runs

    @classmethod
    def of(cls, batch: Batch, group: int, page_size: int) -> Lookups:
        """Work them out: once per pass for each group, not for each layer."""
        xp = array_module(batch.ids)
        slots = [
            slots_of(batch.positions[run.rows], run.pages[group], page_size) for run in batch.runs
        ]
        single = [run for run in batch.runs if run.stop - run.start == 1]
        return cls(
            slots=xp.concatenate(slots),
            decode_rows=xp.array([run.rows.start for run in single], dtype=xp.int64),
            decode_tables=[run.pages[group] for run in single],
            decode_lengths=[run.stop for run in single],
            prefills=[
                Stretch(run.rows, run.start, run.pages[group])
                for run in batch.runs
                if run.stop - run.start > 1
            ],
        )

    @classmethod
    def of_groups(cls, batch: Batch, config: ModelConfig, page_size: int) -> list[Lookups | None]:
        """Those of every cache group; None of one that keeps states, where nothing is looked up."""
        groups = config.cache_groups
        if any(len(run.pages) != len(groups) for run in batch.runs):
            raise TinymoeError(
                f"{config.family}: expected {len(groups)} block tables of each run, "
                f"one a cache group, got {[len(run.pages) for run in batch.runs]}"
            )
        return [
            None if group.kind == "state" else cls.of(batch, number, page_size)
            for number, group in enumerate(groups)
        ]


class Pass(NamedTuple):
    """What stays the same from the first layer of one forward pass to the last, but for `group`."""

    config: ModelConfig
    groups: list[Lookups | None]  # of every cache group
    group: int  # of the layer that is running
    group_of: tuple[int, ...]  # by layer
    runs: tuple[Run, ...]
    positions: Array  # (T,)
    turns: dict[RopeCard, tuple[Array, Array]]  # cosines and sines, (T, 1, d/2) each
    numerics: Numerics
    ops: Ops
    tap: Tap

    @property
    def lookups(self) -> Lookups:
        """Of the layer that is running."""
        found = self.groups[self.group]
        if found is None:
            raise TinymoeError(f"{self.config.family}: a layer with a state has no keys to look up")
        return found


def turns_of(
    positions: Array, config: ModelConfig, numerics: Numerics
) -> dict[RopeCard, tuple[Array, Array]]:
    """The tables of every rope card that a layer has: most models have one."""
    looking = [card for card in config.attention if isinstance(card, AttentionCard)]
    cards = dict.fromkeys(card.rope for card in looking if card.rope is not None)
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


def gated(mix: Array, normed: Array, weight: Weight | None, this: Pass, name: str) -> Array:
    """What attention gives, times sigmoid of a gate (weight (N, H)) of the same size: (T, N)."""
    if weight is None:
        raise TinymoeError(f"{name}: the card has an output gate, the weights have none")
    storage = this.numerics.storage
    gate = store(sigmoid(project(normed, weight, None, this)), storage)  # (T, N)
    this.tap(f"{name}.gate", gate)
    return store(mix * gate, storage)


def finish(mix: Array, weight: Weight, bias: Array | None, this: Pass, name: str) -> Array:
    """The output projection: mix (T, N), weight (H, N), bias (H,) -> (T, H)."""
    this.tap(f"{name}.mix", mix)
    out = project(mix, weight, bias, this)
    this.tap(f"{name}.out", out)
    return out


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
    if not at.prefills:  # single tokens alone: the rows as they are
        tables, lengths = at.decode_tables, at.decode_lengths
        return ops.attention_decode(q, *pages, tables, lengths, scale, numerics, **named)
    width = pages[1].shape[-1]  # Dv
    out = array_module(q).empty((*q.shape[:2], width), dtype=q.dtype)  # (T, Nq, Dv)
    if len(at.decode_rows):
        out[at.decode_rows] = ops.attention_decode(
            q[at.decode_rows], *pages, at.decode_tables, at.decode_lengths, scale, numerics, **named
        )
    for run in at.prefills:
        out[run.rows] = ops.attention_prefill(
            q[run.rows], *pages, run.table, run.start, scale, numerics, **named
        )
    return out

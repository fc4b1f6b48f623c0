"""Parts of a forward pass, each from the engine's own input to it.

A layer is two stages, attention and experts. A stage whose input the engine's trace holds begins
there, so that what is judged is this stage and no error from before it; another one goes on with
what came out of the stage before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from tinymoe.cache import PagedCache
from tinymoe.core import Array, AttentionCard, Batch, ModelConfig, Numerics, Run, Tap
from tinymoe.model.context import Pass
from tinymoe.model.params import LayerParams, MoeParams
from tinymoe.model.precision import store
from tinymoe.model.transformer import (
    added,
    attention,
    begin,
    dense_block,
    embed,
    input_norm,
    logits_of,
    moe_block,
)
from tinymoe.oracle.diff.walk import Trace
from tinymoe.oracle.mutants import Setup


class Stage(NamedTuple):
    """One piece of a forward pass, from one (T, H) to the next."""

    kind: Literal["embed", "attention", "experts", "head"]
    layer: int
    source: str  # the tap that enters it


class Narrow(NamedTuple):
    """A model of a few of another one's layers, which `layers` numbers."""

    setup: Setup
    layers: tuple[int, ...]


def stages(count: int) -> list[Stage]:
    """All of a model of so many layers, in the order of execution."""
    found = [Stage("embed", 0, "tokens")]
    for layer in range(count):
        before = f"layers.{layer - 1}.out" if layer else "embed"
        found += [
            Stage("attention", layer, before),
            Stage("experts", layer, f"layers.{layer}.mid"),
        ]
    return [*found, Stage("head", count - 1, f"layers.{count - 1}.out")]


def stage_of(tap: str, count: int) -> Stage:
    """The stage that computes a tap."""
    every = stages(count)
    if tap == "embed":
        return every[0]
    if not tap.startswith("layers."):
        return every[-1]
    _, layer, part = tap.split(".", 2)
    return every[1 + 2 * int(layer) + (not part.startswith(("attn.", "mid")))]


def spans(first: str, mine: Trace, config: ModelConfig) -> Iterator[tuple[list[Stage], bool]]:
    """The stages to run for the tap `first`, to the end of its layer; whether each one restarts.

    From the last input that the trace has; from the layer's own; from the tokens: what is too
    small to be seen in one half of a layer adds up over more.
    """
    every = stages(config.num_layers)
    here = every.index(stage_of(first, config.num_layers))
    stop = here + (every[here].kind == "attention")
    starts = [here, here - (every[here].kind == "experts")]
    for place, start in enumerate(starts):
        while start and not whole(mine, every[start].source, config):
            start -= 1
        starts[place] = start
    yield every[starts[0] : stop + 1], True
    for start in dict.fromkeys((starts[1], 0)):
        yield every[start : stop + 1], False


def whole(mine: Trace, source: str, config: ModelConfig) -> bool:
    """Whether a trace has all of a stage's input, (T, H)."""
    value = mine.get(source)
    shape = (len(mine["tokens"]), config.hidden_size)
    if value is None or isinstance(value, np.ma.MaskedArray) or value.shape != shape:
        return False
    return bool(np.isfinite(value).all())


def narrowed(setup: Setup, found: Collection[Stage]) -> Narrow:
    """The layers of these stages and the one before them: some wrong variants take its card."""
    config, params, ops = setup
    own = {stage.layer for stage in found}
    layers = tuple(sorted(own | {(min(own) - 1) % config.num_layers}))
    small = replace(
        config,
        layers=tuple(config.layers[i] for i in layers),
        attention=tuple(config.attention[i] for i in layers),
    )
    few = replace(params, layers=tuple(params.layers[i] for i in layers))
    return Narrow(Setup(small, few, ops), layers)


def run(
    narrow: Narrow,
    found: Sequence[Stage],
    mine: Trace,
    numerics: Numerics,
    tap: Tap,
    restarts: bool = True,
) -> None:
    """Run stages; `tap` is given every activation, under its name in the whole model.

    `restarts` False: only the first stage begins from the engine's own input.
    """
    config, params, ops = narrow.setup
    tokens = np.asarray(mine["tokens"]).astype(np.int64)
    count, positions = len(tokens), np.arange(len(tokens))
    cache = PagedCache.for_model(config, numerics, count, sequences=1, batch_tokens=count)
    runs = (Run(slice(0, count), 0, cache.take(count)),)
    this = begin(config, Batch(tokens, positions, runs, positions), cache, numerics, ops, tap)
    x = np.zeros((count, config.hidden_size), numerics.dtype)
    for stage in found:
        begins = restarts or stage is found[0]
        if stage.kind != "embed" and begins and whole(mine, stage.source, config):
            x = store(mine[stage.source].astype(numerics.dtype), numerics.storage)
        index = narrow.layers.index(stage.layer)
        own = this._replace(group=config.group_of(index))
        layer, name = params.layers[index], f"layers.{stage.layer}"
        if stage.kind == "embed":
            x = embed(params, tokens, own)
        elif stage.kind == "attention":
            x = attention_half(x, layer, index, cache.layer(index), own, name)
        elif stage.kind == "experts":
            x = experts_half(x, layer, own, name)
        else:
            logits_of(x, params, positions, own)


def attention_half(
    x: Array, layer: LayerParams, index: int, pages: tuple[Array, Array], this: Pass, name: str
) -> Array:
    """The first half of `model.transformer.run_layer`: (T, H) -> (T, H)."""
    past, factors = this.config.residual, None
    if past is not None:
        full = isinstance(this.config.attention[index], AttentionCard)
        factors = past.full_attention if full else past.linear_attention
    normed = input_norm(x, layer.attention, this, f"{name}.attn")
    x = added(
        x, normed, attention(normed, layer, index, pages, this, f"{name}.attn"), factors, this
    )
    this.tap(f"{name}.mid", x)
    return x


def experts_half(x: Array, layer: LayerParams, this: Pass, name: str) -> Array:
    """The second half, experts or a dense network: (T, H) -> (T, H)."""
    past, fed = this.config.residual, layer.ffn
    part = "moe" if isinstance(fed, MoeParams) else "mlp"
    normed = input_norm(x, fed, this, f"{name}.{part}")
    if isinstance(fed, MoeParams):
        out = moe_block(normed, fed, this, name)
    else:
        out = dense_block(normed, fed, this, f"{name}.mlp")
    x = added(x, normed, out, None if past is None else past.ffn, this)
    this.tap(f"{name}.out", x)
    return x

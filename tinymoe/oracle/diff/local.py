"""Each layer judged by itself, from the input that the engine gave it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tinymoe.core import Array, ModelConfig, Numerics, TinymoeError
from tinymoe.model.params import AttentionParams, LatentParams, LayerParams, MoeParams, Params
from tinymoe.model.weights import plain
from tinymoe.oracle.diff.walk import Report, Trace, diff, tokens_of

Part = tuple[str, Params, ModelConfig, dict[str, Array]]  # name, model, config, the engine's taps


def diff_local(
    params: Params,
    config: ModelConfig,
    mine: Trace,
    numerics: Numerics,
    *,
    replay: bool = False,
) -> Report:
    """As `diff`, layer by layer: `layers.{l - 1}.out` (or `embed`) of `mine` is the layer's input.

    `wrong` names the first wrong tensor of every layer that has one. The bounds are those of one
    layer, and so much tighter than those of a whole pass.
    """
    tokens_of(mine)
    tensors, flips, wrong, skipped = [], [], [], []
    firsts = []
    for name, own, small, taps in parts(params, config, mine):
        judged = set(taps) - {"tokens"} - ({"embed"} if name != "embed" else set())
        if not judged:
            skipped.append(name)
            continue
        found = diff(own, small, taps, numerics, replay=replay)
        kept = [
            replace(t, name=t.name.replace("layers.0", name))
            for t in found.tensors
            if t.name in judged
        ]
        tensors += kept
        if name.startswith("layers."):
            flips += [flip._replace(layer=int(name[7:])) for flip in found.flips]
        first = next((t for t in kept if t.status != "agrees"), None)
        if first is not None:
            firsts.append(first)
            wrong.append(first.name)
    if not tensors:
        raise TinymoeError(
            "no layer can be judged from its own input: the trace needs 'embed' or "
            "'layers.0.out', 'layers.1.out', ... and taps of the layers after them"
        )
    notes = [f"not judged, as its input or its taps are not there: {n}" for n in skipped]
    return Report(
        mode="local",
        numerics=numerics.name,
        replay=replay,
        tensors=tuple(tensors),
        flips=tuple(flips),
        first=firsts[0] if firsts else None,
        wrong=tuple(wrong),
        missing=(),
        extra=(),
        order=tuple(t.name for t in tensors),
        notes=tuple(notes),
    )


def parts(params: Params, config: ModelConfig, mine: Trace) -> Iterator[Part]:
    """The embedding, every layer, and the head, each as a model of one layer."""
    rows = np.arange(len(mine["tokens"]))
    tail: dict[str, Any] = {"head": plain(params.head)[:1], "head_bias": None}
    if "embed" in mine:
        bare = replace(params, layers=(silent(params.layers[0]),), **tail)
        taps = {name: mine[name] for name in ("tokens", "embed")}
        yield "embed", bare, _alone(config, 0, None), taps
    for index, layer in enumerate(params.layers):
        source = "embed" if index == 0 else f"layers.{index - 1}.out"
        here = f"layers.{index}"
        if source not in mine:
            yield here, params, config, {}
            continue
        own = replace(params, embed=_input(mine[source], config), layers=(layer,), **tail)
        taps = {
            name.replace(here, "layers.0", 1): value
            for name, value in mine.items()
            if name.startswith(f"{here}.")
        }
        yield here, own, _alone(config, index, len(rows)), {"tokens": rows, **taps}
    index = len(params.layers) - 1
    source = f"layers.{index}.out"
    if source in mine and {"final_norm", "logits"} & set(mine):
        last = silent(params.layers[index])
        own = replace(params, embed=_input(mine[source], config), layers=(last,))
        taps = {name: mine[name] for name in ("final_norm", "logits") if name in mine}
        yield "head", own, _alone(config, index, len(rows)), {"tokens": rows, **taps}


def silent(layer: LayerParams) -> LayerParams:
    """A layer that adds nothing: what comes in goes out."""
    attention, fed = layer.attention, layer.ffn
    quiet: dict[str, Any] = {"down": np.zeros_like(fed.down)}
    if isinstance(fed, MoeParams):
        quiet |= {"down_bias": None, "shared": None}
    still: dict[str, Any] = {"out": np.zeros_like(attention.out)}
    if isinstance(attention, AttentionParams | LatentParams):
        still["out_bias"] = None
    return LayerParams(attention=replace(attention, **still), ffn=replace(fed, **quiet))


def _alone(config: ModelConfig, index: int, rows: int | None) -> ModelConfig:
    """One layer of the model; with `rows`, its embedding is the engine's activation as it is."""
    one = replace(config, layers=(config.layers[index],), attention=(config.attention[index],))
    if rows is None:
        return one
    untouched = replace(config.multipliers, embedding=1.0)
    return replace(one, vocab_size=rows, multipliers=untouched)


def _input(source: Array, config: ModelConfig) -> Array:
    """The engine's activation (T, H), if it is one."""
    whole = not isinstance(source, np.ma.MaskedArray)
    if source.ndim != 2 or source.shape[1] != config.hidden_size or not whole:
        raise TinymoeError(
            f"a layer's input: expected all entries of (T, {config.hidden_size}), got "
            f"{type(source).__name__} of shape {source.shape}"
        )
    return source

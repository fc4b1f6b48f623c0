"""Traces: every activation of one forward pass, named, in one safetensors file.

The names are a public, versioned schema, `tinymoe-trace/1`:

    tokens [T]   embed [T,H]
    layers.{l}.attn.norm [T,H]   .attn.q [T,Nq,D]   .attn.k [T,Nk,D]   .attn.v [T,Nk,Dv]
    layers.{l}.attn.mix [T,Nq*Dv]   .attn.out [T,H]   layers.{l}.mid [T,H]
    layers.{l}.moe.norm [T,H]   .router.logits [T,E]   .router.scores [T,E]
    layers.{l}.router.ids [T,K]   .router.weights [T,K]   .router.margin [T]
    layers.{l}.moe.expert_out [T,K,H] (on request)   .moe.routed [T,H]   .moe.shared [T,H]
    layers.{l}.moe.out [T,H]
    layers.{l}.out [T,H]   final_norm [T,H]   logits [T,V]

q and k are after norm and rope. `moe.shared` is there where a model has a shared expert, its gate
included. Dense layers have `mlp.norm` and `mlp.out`.

Layers with a state: q, k and v are what goes into it, after convolution and silu (Qwen3-Next; not
yet of unit length) or silu (MiniMax-01); a gated delta net has `attn.beta` and `attn.log_decay`
[T,Nv] besides. `attn.gate` [T,Nq*Dv] is there where attention is multiplied by a gate before its
output projection, with its sigmoid (silu in the delta net); `attn.mix` is always what goes into
that projection. States are not in a trace: a token's is as large as all its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np

from tinymoe.cache import PagedCache
from tinymoe.cache_groups import GONE
from tinymoe.core import Array, Batch, ModelConfig, Numerics, Run, Tap, TinymoeError
from tinymoe.model.ops import DEFINITION, Ops
from tinymoe.model.params import Params
from tinymoe.model.precision import store
from tinymoe.model.transformer import begin, embed, forward, logits_of, no_tap, through

ON_REQUEST = "*.moe.expert_out"  # K times as large as any other: only when a pattern asks


def wanted(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Which taps to keep. Patterns are shell globs on tap names; none means all but the large.

    >>> keep = wanted(["layers.0.router.*"])
    >>> keep("layers.0.router.ids"), keep("layers.1.router.ids")
    (True, False)
    >>> wanted([])("layers.0.moe.expert_out")
    False
    """
    if not patterns:
        return lambda name: not fnmatchcase(name, ON_REQUEST)
    return lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)


def trace(
    params: Params,
    config: ModelConfig,
    ids: Sequence[int],
    numerics: Numerics,
    *,
    ops: Ops = DEFINITION,
    patterns: Sequence[str] = (),
    layers: tuple[int, int | None] | None = None,
    hidden: Array | None = None,
    into: Tap | None = None,
) -> dict[str, Array]:
    """Run ids (T,) in one piece from position 0; tap name -> array, in execution order.

    `layers` (a, b): layers a to b - 1 alone, from `hidden` (T, H), which enters layer a, or, for
    a = 0, from the embedding of ids. b None: all that follow, and then the logits. `into` is
    given each kept tap as it comes (to be copied, if kept), and nothing is returned.
    """
    keep, kept, seen = wanted(patterns), dict[str, Array](), list[str]()

    def tap(name: str, value: Array) -> None:
        if not keep(name):
            return
        seen.append(name)
        if into is None:
            kept[name] = np.array(value)
        else:
            into(name, value)

    if layers is None and hidden is None:
        forward_alone(params, config, ids, numerics, ops=ops, tap=tap, logits=keep("logits"))
    else:
        run = span_of(layers or (0, None), config.num_layers)
        _run_layers(params, config, ids, numerics, run, hidden, ops, tap, keep("logits"))
    if not seen:
        raise TinymoeError(
            f"no tap matches {list(patterns)}: names look like 'embed', 'layers.0.router.ids', "
            "'layers.*.moe.out', 'logits'"
        )
    return kept


def forward_alone(
    params: Params,
    config: ModelConfig,
    ids: Sequence[int],
    numerics: Numerics,
    *,
    ops: Ops = DEFINITION,
    tap: Tap = no_tap,
    logits: bool = True,
) -> Array:
    """Logits (T, V) of one sequence ids (T,), with a cache of its own that is then dropped.

    `logits` False: (0, V), and the head is not read.
    """
    batch, cache = _alone(check_ids(ids, config), config, numerics, logits)
    return forward(params, config, batch, cache, numerics, ops, tap)


def _alone(
    tokens: Array,
    config: ModelConfig,
    numerics: Numerics,
    logits: bool,
    part: ModelConfig | None = None,
) -> tuple[Batch, PagedCache]:
    """A batch of one sequence from position 0, and a cache for it: of all layers, or of `part`."""
    count, held = len(tokens), config if part is None else part
    cache = PagedCache.for_model(held, numerics, count, sequences=1, batch_tokens=count)
    taken = {(g.kind, g.span): t for g, t in zip(held.cache_groups, cache.take(count), strict=True)}
    nowhere = np.full(-(-count // cache.page_size), GONE)  # groups of layers that are not run
    tables = tuple(taken.get((g.kind, g.span), nowhere) for g in config.cache_groups)
    positions = np.arange(count)
    rows = positions if logits else positions[:0]
    return Batch(tokens, positions, (Run(slice(0, count), 0, tables),), rows), cache


def span_of(layers: tuple[int, int | None], number: int) -> tuple[range, bool]:
    """The layers of (a, b), and whether the logits follow: they do where b is None."""
    first, stop = layers
    end = number if stop is None else stop
    if not 0 <= first < end <= number:
        raise TinymoeError(
            f"layers: expected a range within 0:{number}, this model's, got {first}:"
            f"{'' if stop is None else stop}; 2:4 are layers 2 and 3, 2: is 2 to the logits"
        )
    return range(first, end), stop is None


def _run_layers(
    params: Params,
    config: ModelConfig,
    ids: Sequence[int],
    numerics: Numerics,
    run: tuple[range, bool],
    hidden: Array | None,
    ops: Ops,
    tap: Tap,
    logits: bool,
) -> None:
    """Some layers, with a cache of theirs alone."""
    layers, to_the_end = run
    if hidden is None and layers.start:
        raise TinymoeError(
            f"layers that begin at {layers.start} need what enters them: give hidden states (T, H)"
        )
    if hidden is not None:
        x = check_hidden(hidden, config, numerics)
        tokens = np.zeros(len(x), np.int64)  # nobody looks at them
    else:
        tokens = check_ids(ids, config)
    inside = slice(layers.start, layers.stop)
    part = replace(config, layers=config.layers[inside], attention=config.attention[inside])
    batch, cache = _alone(tokens, config, numerics, logits, part)
    this = begin(config, batch, cache, numerics, ops, tap)
    if hidden is None:
        x = embed(params, tokens, this)
    x = through(x, params, layers, cache, this)
    if to_the_end:
        logits_of(x, params, batch.logit_rows, this)


def check_hidden(hidden: Array, config: ModelConfig, numerics: Numerics) -> Array:
    """Hidden states (T, H) in the numerics' type, rounded to its storage; or an error."""
    x, H = np.asarray(hidden), config.hidden_size
    if x.ndim != 2 or x.shape[1] != H or not 0 < len(x) <= config.max_positions:
        raise TinymoeError(
            f"hidden states: expected (T, {H}) with T from 1 to {config.max_positions}, got "
            f"{x.shape} of {x.dtype}"
        )
    if x.dtype.kind != "f":
        raise TinymoeError(f"hidden states: expected floating-point numbers, got {x.dtype}")
    return store(x.astype(numerics.dtype), numerics.storage)


def check_ids(ids: Sequence[int], config: ModelConfig) -> Array:
    """`ids` as an int64 array (T,), or an error that says what a sequence must be."""
    tokens = np.asarray(ids)
    if tokens.ndim != 1 or tokens.size == 0 or tokens.dtype.kind not in "iu":
        raise TinymoeError(
            "token ids must be one non-empty sequence of whole numbers, got shape "
            f"{tokens.shape} of {tokens.dtype}"
        )
    if tokens.min() < 0 or tokens.max() >= config.vocab_size:
        raise TinymoeError(
            f"token ids must be from 0 to {config.vocab_size - 1} (this model's vocabulary), got "
            f"{int(tokens.min())} to {int(tokens.max())}"
        )
    if len(tokens) > config.max_positions:
        raise TinymoeError(
            f"the sequence has {len(tokens)} tokens, the model has {config.positions_said}"
        )
    return tokens.astype(np.int64)

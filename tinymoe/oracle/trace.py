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

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from tinymoe.cache import PagedCache
from tinymoe.core import Array, Batch, ModelConfig, Numerics, Run, Tap, TinymoeError
from tinymoe.model.ops import DEFINITION, Ops
from tinymoe.model.params import Params
from tinymoe.model.transformer import forward, no_tap

SCHEMA = "tinymoe-trace/1"
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
) -> dict[str, Array]:
    """Run ids (T,) in one piece from position 0; tap name -> array, in execution order."""
    keep, kept = wanted(patterns), dict[str, Array]()

    def tap(name: str, value: Array) -> None:
        if keep(name):
            kept[name] = np.array(value)

    forward_alone(params, config, ids, numerics, ops=ops, tap=tap)
    if not kept:
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
) -> Array:
    """Logits (T, V) of one sequence ids (T,), with a cache of its own that is then dropped."""
    tokens = check_ids(ids, config)
    count = len(tokens)
    cache = PagedCache.for_model(config, numerics, count, sequences=1, batch_tokens=count)
    everything = np.arange(count)
    batch = Batch(tokens, everything, (Run(slice(0, count), 0, cache.take(count)),), everything)
    return forward(params, config, batch, cache, numerics, ops, tap)


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
            f"the sequence has {len(tokens)} tokens, the model has {config.max_positions} positions"
        )
    return tokens.astype(np.int64)


def write_trace(path: Path, taps: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write taps and metadata (with the schema's name) to `path`, whole or not at all."""
    data = save(
        {name: np.ascontiguousarray(value) for name, value in taps.items()},
        {"schema": SCHEMA, **metadata},
    )
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)  # mkstemp makes files that only their owner can read
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise

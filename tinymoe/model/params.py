"""The weights of a model, by role. A family file says which tensor of a checkpoint fills which.

Every array has the numerics' `accumulate` type and holds the checkpoint's values exactly; norm
weights that are stored as w - 1 (Qwen3-Next) hold w. Matrices are (out, in), as in the checkpoint.
A `Weight` is such an array, or one that says how its input is quantised, where numerics ask for
what the checkpoint says (`weights.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np

from tinymoe.core import Array
from tinymoe.formats.inputs import InputFormat
from tinymoe.model.on_demand import Reads
from tinymoe.model.weights import Weight

CACHE_LINE = 64  # bytes


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any] | type) -> Array:
    """`np.empty`, its first value at the beginning of a cache line.

    NumPy's own begin 16 bytes into one, so that every 64-byte load of a row reads two lines:
    measured, matrix-vector products on weights that are not in a cache take 20 % longer.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + CACHE_LINE, np.uint8)
    start = -buffer.ctypes.data % CACHE_LINE
    return buffer[start : start + size].view(dtype).reshape(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionParams:
    """One layer's attention."""

    norm: Array  # (H,)
    qkv: Weight  # ((Nq + 2 Nk)*D, H): query heads' rows, then key heads', then value heads'
    qk_norm: Array | None  # (Nq + Nk, D): a weight for each query and key head, if qk_norm
    out: Weight  # (H, Nq*D)
    qkv_bias: Array | None = None  # ((Nq + 2 Nk)*D,)
    out_bias: Array | None = None  # (H,)
    sinks: Array | None = None  # (Nq,)
    norm_bias: Array | None = None  # (H,), with LayerNorm
    key_format: InputFormat | None = None  # in which keys are cached; None: as they are
    value_format: InputFormat | None = None
    gate: Weight | None = None  # (Nq*D, H), with AttentionCard.out_gate


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentParams:
    """One layer's multi-head latent attention: R = rank, Dn, Dr, Dv as in `LatentCard`."""

    norm: Array  # (H,)
    query_down: Weight | None  # (Rq, H)
    query_down_bias: Array | None  # (Rq,)
    query_norm: Array | None  # (Rq,)
    query: Weight  # (Nq*(Dn + Dr), Rq), or of H columns where there is no query_down
    down: Weight  # (R + Dr, H): the latent vector's rows, then the shared key's
    down_bias: Array | None  # (R + Dr,)
    latent_norm: Array  # (R,)
    up: Weight  # (Nq, Dn + Dv, R): of each head the key's rows, then the value's
    out: Weight  # (H, Nq*Dv)
    out_bias: Array | None  # (H,)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaParams:
    """One layer's gated delta net: sizes as in `GatedDeltaCard`, C = its channels."""

    norm: Array  # (H,)
    qkvz: Weight  # (C + Nv*Dv, H): rows of all queries, all keys, all values, then the gate's
    ba: Weight  # (2 Nv, H): rows of beta, then those of the decay
    conv: Array  # (C, kernel): oldest tap first
    a_log: Array  # (Nv,)
    dt_bias: Array  # (Nv,)
    out_norm: Array  # (Dv,)
    out: Weight  # (H, Nv*Dv)


@dataclass(frozen=True, slots=True, kw_only=True)
class LightningParams:
    """One layer's lightning attention."""

    norm: Array  # (H,)
    qkv: Weight  # (3*Nq*D, H): rows of all queries, all keys, all values
    gate: Weight  # (Nq*D, H)
    out_norm: Array  # (Nq*D,)
    out: Weight  # (H, Nq*D)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedParams:
    """The expert that every token meets; S = ExpertCard.shared_intermediate."""

    gate_up: Weight  # (2S, H): gate rows, then up rows
    down: Weight  # (H, S)
    gate: Weight | None  # (1, H), if its output is gated


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeParams:
    """One layer's router and experts."""

    norm: Array  # (H,)
    router: Array  # (E, H)
    selection_bias: Array | None  # (E,), with RouterCard.selection_bias
    gate_up: Weight  # (E, 2I, H): gate rows, then up rows
    down: Weight  # (E, H, I)
    router_bias: Array | None = None  # (E,), part of the logits
    gate_up_bias: Array | None = None  # (E, 2I)
    down_bias: Array | None = None  # (E, H)
    shared: SharedParams | None = None
    norm_bias: Array | None = None  # (H,), with LayerNorm


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseParams:
    """One dense layer's feed-forward part."""

    norm: Array  # (H,)
    gate_up: Weight  # (2W, H): gate rows, then up rows; W = ModelConfig.dense_intermediate
    down: Weight  # (H, W)


MixerParams: TypeAlias = AttentionParams | LatentParams | GatedDeltaParams | LightningParams


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerParams:
    """One transformer layer."""

    attention: MixerParams
    ffn: MoeParams | DenseParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """A whole model. With a tied head, `head` is `embed`: the same array, held once."""

    embed: Array  # (V, H)
    layers: Sequence[LayerParams]
    final_norm: Array  # (H,)
    head: Weight  # (V, H)
    final_norm_bias: Array | None = None  # (H,), with LayerNorm
    head_bias: Array | None = None  # (V,)
    reads: Reads | None = None  # where weights are read on demand: what was read so far

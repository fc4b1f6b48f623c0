"""A model's weights as the step's kernels want them: matrices as tiles, vectors as they are.

Layers are packed one at a time, from matrices that are read as they are stored
(`families/as_stored.py`), so that a model is never in memory twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.kernels.cpu.batch import aligned
from tinymoe.kernels.cpu.latent import absorbed
from tinymoe.kernels.cpu.pack import Packed, order_of, pack, pack_values
from tinymoe.kernels.cpu.simd import LANES
from tinymoe.model.on_demand import OnDemand
from tinymoe.model.params import (
    AttentionParams,
    DenseParams,
    LatentParams,
    LayerParams,
    MoeParams,
    Params,
    SharedParams,
)

Progress = Callable[[int, int], None]  # layers done, of how many
Packer = Callable[..., Packed]  # as `pack`: a matrix or stack, and whether it is gate above up


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One layer's attention."""

    norm: Array
    norm_bias: Array | None
    qkv: Packed
    qkv_bias: Array | None  # in the order of the tiles, as all biases of products
    qk_norm: Array | None  # (Nq + Nk, D), or (Nq + Nk) * D
    sinks: Array | None
    out: Packed
    out_bias: Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """One layer's latent attention: R, Dn, Dv as in `LatentCard`."""

    norm: Array
    query_down: Packed | None
    query_down_bias: Array | None
    query_norm: Array | None
    query: Packed
    down: Packed
    down_bias: Array | None
    latent_norm: Array
    to_key: Packed  # (Nq, Dn, R): the expanded form's keys
    fold: Packed  # (Nq, R, Dn): the same numbers, for the absorbed form's queries
    to_value: Packed  # (Nq, Dv, R)
    out: Packed
    out_bias: Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The shared expert."""

    gate_up: Packed
    down: Packed
    gate: Packed | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moe:
    """One layer's router and experts."""

    norm: Array
    norm_bias: Array | None
    router: Packed
    router_bias: Array | None
    selection_bias: Array | None
    gate_up: Packed
    gate_up_bias: Array | None  # (E, pairs * 32)
    down: Packed
    down_bias: Array | None
    shared: Shared | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A layer's feed-forward part without experts."""

    norm: Array
    gate_up: Packed
    down: Packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A whole model. With a tied head the embedding is read from the head's tiles."""

    embed: Packed
    layers: list[tuple[Attention | Latent, Moe | Dense]]
    final_norm: Array
    final_norm_bias: Array | None
    head: Packed
    head_bias: Array | None

    @property
    def matrices(self) -> list[Packed]:
        """Every packed matrix, the embedding not twice."""
        found: dict[int, Packed] = {}
        pending: list[Any] = [self.embed, self.head, *(p for pair in self.layers for p in pair)]
        while pending:
            part = pending.pop()
            if isinstance(part, Packed):
                found[id(part)] = part
            elif hasattr(part, "__slots__"):
                pending += [getattr(part, name) for name in part.__slots__]
        return list(found.values())


def vector(values: Array | None) -> Array | None:
    """A float32 copy that vectors of 16 may be read from: zeros behind its end."""
    if values is None:
        return None
    flat = np.asarray(values, np.float32).reshape(-1)
    out = aligned(len(flat) + LANES)
    out[: len(flat)] = flat
    return out


def bias_of(values: Array | None, *, gate_up: bool = False) -> Array | None:
    """Biases (N,) or (E, N) of a product's rows, in the order of its tiles."""
    if values is None:
        return None
    stack = np.atleast_2d(np.asarray(values, np.float32))
    order = order_of(stack.shape[1], gate_up)
    out = aligned(len(stack) * len(order)).reshape(len(stack), -1)
    out[:, order >= 0] = stack[:, order[order >= 0]]
    return out


def weights_of(params: Params, progress: Progress | None = None, packer: Packer = pack) -> Weights:
    """Pack everything; `progress` is told of each layer.

    `packer` packs what a layer multiplies with, and the head; routers are packed as they are
    stored. The embedding is looked up, not multiplied: its tiles are values.
    """
    tied = params.head is params.embed and packer is pack
    embed = pack_values(_array(params.embed))
    layers = []
    for index in range(len(params.layers)):  # not `for layer in`: read, packed, and dropped
        layers.append(_layer(params.layers[index], index, packer))
        if progress is not None:
            progress(index + 1, len(params.layers))
    return Weights(
        embed=embed,
        layers=layers,
        final_norm=_needed(vector(params.final_norm)),
        final_norm_bias=vector(params.final_norm_bias),
        head=embed if tied else packer(_array(params.head)),
        head_bias=bias_of(params.head_bias),
    )


def _array(weight: Any) -> Array | OnDemand:
    if isinstance(weight, np.ndarray | OnDemand):
        return weight
    raise TinymoeError(
        f"the compiled kernels leave inputs as they are, got {type(weight).__name__}: use other "
        "numerics than 'checkpoint', or the backend 'numpy'"
    )


def _needed(values: Array | None) -> Array:
    if values is None:
        raise TinymoeError("a weight is missing")
    return values


def _layer(
    layer: LayerParams, index: int, packer: Packer
) -> tuple[Attention | Latent, Moe | Dense]:
    attention, ffn = layer.attention, layer.ffn
    fed = _moe(ffn, packer) if isinstance(ffn, MoeParams) else _dense(ffn, packer)
    if isinstance(attention, LatentParams):
        return _latent(attention, packer), fed
    if isinstance(attention, AttentionParams):
        return _attention(attention, packer), fed
    raise TinymoeError(f"layer {index}: no kernels for {type(attention).__name__}")


def _attention(params: AttentionParams, packer: Packer) -> Attention:
    return Attention(
        norm=_needed(vector(params.norm)),
        norm_bias=vector(params.norm_bias),
        qkv=packer(_array(params.qkv)),
        qkv_bias=bias_of(params.qkv_bias),
        qk_norm=vector(params.qk_norm),
        sinks=vector(params.sinks),
        out=packer(_array(params.out)),
        out_bias=bias_of(params.out_bias),
    )


def _latent(params: LatentParams, packer: Packer) -> Latent:
    up = np.asarray(_array(params.up)[:], np.float32)  # (Nq, Dn + Dv, R)
    rope_dim = len(params.down) - up.shape[2]
    nope_dim = len(params.query) // len(up) - rope_dim
    fold, to_value = absorbed(up, nope_dim)
    low = params.query_down
    return Latent(
        norm=_needed(vector(params.norm)),
        query_down=None if low is None else packer(_array(low)),
        query_down_bias=bias_of(params.query_down_bias),
        query_norm=vector(params.query_norm),
        query=packer(_array(params.query)),
        down=packer(_array(params.down)),
        down_bias=bias_of(params.down_bias),
        latent_norm=_needed(vector(params.latent_norm)),
        to_key=pack(np.ascontiguousarray(up[:, :nope_dim])),
        fold=pack(fold),
        to_value=pack(to_value),
        out=packer(_array(params.out)),
        out_bias=bias_of(params.out_bias),
    )


def _moe(params: MoeParams, packer: Packer) -> Moe:
    return Moe(
        norm=_needed(vector(params.norm)),
        norm_bias=vector(params.norm_bias),
        router=pack(_array(params.router)),
        router_bias=bias_of(params.router_bias),
        selection_bias=vector(params.selection_bias),
        gate_up=packer(_array(params.gate_up), gate_up=True),
        gate_up_bias=bias_of(params.gate_up_bias, gate_up=True),
        down=packer(_array(params.down)),
        down_bias=bias_of(params.down_bias),
        shared=None if params.shared is None else _shared(params.shared, packer),
    )


def _shared(params: SharedParams, packer: Packer) -> Shared:
    return Shared(
        gate_up=packer(_array(params.gate_up), gate_up=True),
        down=packer(_array(params.down)),
        gate=None if params.gate is None else pack(_array(params.gate)),
    )


def _dense(params: DenseParams, packer: Packer) -> Dense:
    return Dense(
        norm=_needed(vector(params.norm)),
        gate_up=packer(_array(params.gate_up), gate_up=True),
        down=packer(_array(params.down)),
    )

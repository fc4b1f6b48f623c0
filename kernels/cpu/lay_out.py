"""A model's weights, laid out as tiles: by several threads, or as they were laid out before.

Each thread packs half a layer, from matrices that are read as they are stored
(`families/as_stored.py`): all that it has in memory twice is an expert, or a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.kernels.cpu.inputs import with_inputs
from tinymoe.kernels.cpu.latent import absorbed
from tinymoe.kernels.cpu.pack import Packed, pack, pack_values
from tinymoe.kernels.cpu.weights import (
    Attention,
    Dense,
    Latent,
    Moe,
    Shared,
    Weights,
    bias_of,
    vector,
)
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
from tinymoe.model.weights import QuantisedInput

Progress = Callable[[int, int], None]  # parts done, of how many
Packer = Callable[..., Packed]  # as `pack`: a matrix or stack, and whether it is gate above up


class Shelf(Protocol):
    """Where tiles may be already, by name."""

    def get(self, name: str, shape: tuple[int, ...], gate_up: bool) -> Packed | None:
        """Those of a matrix or stack of this shape; None: they have to be made."""
        ...

    def put(self, name: str, matrix: Packed) -> None:
        """Those that were made. Called from several threads."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Gives each matrix's tiles, by name: packed now, or kept from an earlier time."""

    packer: Packer  # of what a layer multiplies with, and of the head
    shelf: Shelf | None = None
    prefix: str = ""

    def within(self, name: str) -> Tiles:
        """The same for a part of the model."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def __call__(
        self, name: str, weight: Any, *, gate_up: bool = False, packer: Packer | None = None
    ) -> Packed:
        """Of a matrix or stack; `packer`: another than for products."""
        if isinstance(weight, QuantisedInput):
            tiles = self(name, weight.values, gate_up=gate_up, packer=packer)
            return with_inputs(tiles, weight.inputs)
        array, whole = _array(weight), self.prefix + name
        found = None if self.shelf is None else self.shelf.get(whole, array.shape, gate_up)
        if found is not None:
            return found
        made = (packer or self.packer)(array, gate_up=gate_up)
        if self.shelf is not None:
            self.shelf.put(whole, made)
        return made


def weights_of(
    params: Params,
    progress: Progress | None = None,
    packer: Packer = pack,
    *,
    threads: int = 1,
    shelf: Shelf | None = None,
) -> Weights:
    """Pack everything, on some threads; `progress` is told of each part, by the caller's thread.

    `packer` packs what a layer multiplies with, and the head; routers are packed as they are
    stored. The embedding is looked up, not multiplied: its tiles are values. `shelf`: tiles that
    need not be packed, and where those go that are. The same bits for any number of threads.
    """
    tied = params.head is params.embed and packer is pack
    tiles = Tiles(packer=packer, shelf=shelf)
    layers: list[tuple[Future[Attention | Latent], Future[Moe | Dense]]] = []
    with _threads(threads) as pool:
        embed = pool.submit(tiles, "embed", params.embed, packer=pack_values)
        head = embed if tied else pool.submit(tiles, "head", params.head)
        for index in range(len(params.layers)):  # not `for layer in`: its vectors are read here
            layer, own = params.layers[index], tiles.within(f"layers.{index}")
            fed = pool.submit(_ffn, layer, own.within("ffn"))
            layers.append((pool.submit(_mixer, layer, index, own.within("attention")), fed))
        waiting = {embed, head, *(half for pair in layers for half in pair)}
        for done, half in enumerate(as_completed(waiting), 1):
            half.result()  # what went wrong ends all
            if progress is not None:
                progress(done, len(waiting))
    return Weights(
        embed=embed.result(),
        layers=[(attention.result(), ffn.result()) for attention, ffn in layers],
        final_norm=_needed(vector(params.final_norm)),
        head=head.result(),
        head_bias=bias_of(params.head_bias),
    )


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that an exception, Ctrl-C among them, ends without doing the rest."""
    pool = ThreadPoolExecutor(count, "tinymoe-pack")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


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


def _mixer(layer: LayerParams, index: int, tiles: Tiles) -> Attention | Latent:
    if isinstance(layer.attention, LatentParams):
        return _latent(layer.attention, tiles)
    if isinstance(layer.attention, AttentionParams):
        return _attention(layer.attention, tiles)
    raise TinymoeError(f"layer {index}: no kernels for {type(layer.attention).__name__}")


def _ffn(layer: LayerParams, tiles: Tiles) -> Moe | Dense:
    return _moe(layer.ffn, tiles) if isinstance(layer.ffn, MoeParams) else _dense(layer.ffn, tiles)


def _attention(params: AttentionParams, tiles: Tiles) -> Attention:
    return Attention(
        norm=_needed(vector(params.norm)),
        qkv=tiles("qkv", params.qkv),
        qkv_bias=bias_of(params.qkv_bias),
        qk_norm=vector(params.qk_norm),
        sinks=vector(params.sinks),
        out=tiles("out", params.out),
        out_bias=bias_of(params.out_bias),
    )


def _latent(params: LatentParams, tiles: Tiles) -> Latent:
    heads, both, rank = _array(params.up).shape  # (Nq, Dn + Dv, R)
    nope = len(params.query) // heads - (len(params.down) - rank)

    @cache
    def stacks() -> tuple[Array, ...]:
        up = np.asarray(_array(params.up)[:], np.float32)
        return up[:, :nope], *absorbed(up, nope)

    def by_head(name: str, number: int, rows: int, columns: int) -> Packed:
        stack = OnDemand((heads, rows, columns), lambda head: stacks()[number][head])
        return tiles(name, stack, packer=pack)

    low = params.query_down
    return Latent(
        norm=_needed(vector(params.norm)),
        query_down=None if low is None else tiles("query_down", low),
        query_down_bias=bias_of(params.query_down_bias),
        query_norm=vector(params.query_norm),
        query=tiles("query", params.query),
        down=tiles("down", params.down),
        down_bias=bias_of(params.down_bias),
        latent_norm=_needed(vector(params.latent_norm)),
        to_key=by_head("to_key", 0, nope, rank),
        fold=by_head("fold", 1, rank, nope),
        to_value=by_head("to_value", 2, both - nope, rank),
        out=tiles("out", params.out),
        out_bias=bias_of(params.out_bias),
    )


def _moe(params: MoeParams, tiles: Tiles) -> Moe:
    return Moe(
        norm=_needed(vector(params.norm)),
        router=tiles("router", params.router, packer=pack),
        router_bias=bias_of(params.router_bias),
        selection_bias=vector(params.selection_bias),
        gate_up=tiles("gate_up", params.gate_up, gate_up=True),
        gate_up_bias=bias_of(params.gate_up_bias, gate_up=True),
        down=tiles("down", params.down),
        down_bias=bias_of(params.down_bias),
        shared=None if params.shared is None else _shared(params.shared, tiles.within("shared")),
    )


def _shared(params: SharedParams, tiles: Tiles) -> Shared:
    return Shared(
        gate_up=tiles("gate_up", params.gate_up, gate_up=True),
        down=tiles("down", params.down),
        gate=None if params.gate is None else tiles("gate", params.gate, packer=pack),
    )


def _dense(params: DenseParams, tiles: Tiles) -> Dense:
    return Dense(
        norm=_needed(vector(params.norm)),
        gate_up=tiles("gate_up", params.gate_up, gate_up=True),
        down=tiles("down", params.down),
    )

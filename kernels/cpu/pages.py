"""Pages of keys and values as attention's kernels read them, and the way into them.

    keys    (pages, P / 16, Nk, D, 16)            a dimension of 16 keys side by side
    values  (pages, P / 16, Nk, ceil(Dv / 16), 16, 16)    of 16 values, 16 dimensions of each

Both are tiles of rows of 16 numbers, and a score or a mix is rows times one number each: nothing is
turned when it is read, and one row serves all queries of its key head. Numbers are float32, or BF16
where numerics round what is cached to it: exact, and half the bytes. Of a row of BF16, number i is
the low and number 8 + i the high half of 32-bit word i: a shift and a mask widen them.

Latent attention in its absorbed form has values that are a part of its keys; here they are held
twice, once for each way of reading. That is nearly twice the bytes of its cache, but not more time:
what all heads compute of one latent takes longer than to read it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from tinymoe.core import Array, AttentionCard, ModelConfig, Numerics
from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.kernels.cpu.batch import (
    ALIGNMENT,
    PAGE_SIZE,
    POSITIONS,
    RUN_OF,
    RUNS,
    TABLES,
    aligned,
    share_tokens,
    word,
)
from tinymoe.kernels.cpu.kernel import ALWAYS, arguments, inlined, kernel, part
from tinymoe.kernels.cpu.lazily import operation, types
from tinymoe.kernels.cpu.rows import piece
from tinymoe.kernels.cpu.simd import F32, f32_at, i64_at, lanes_of, put_f32, store

TILE = 16  # positions that lie side by side: P is a multiple of it
HUGE = 1 << 21  # bytes of a page of the system's memory, where it gives large ones
LARGE = 2 * HUGE  # bytes from which on NumPy asks for them


def tiles(
    config: ModelConfig, layer: int, pages: int, page_size: int, numerics: Numerics
) -> tuple[Array, Array]:
    """`cache.Layout` of the compiled step: empty pages of one layer."""
    (heads, dim), _ = config.cached(layer)
    value_dim, dtype = config.value_dim(layer), held_as(config, layer, numerics)
    count = pages * page_size // TILE
    keys = empty_keys(count, heads, dim, dtype)
    values = empty_values(count, heads, value_dim, dtype)
    lead = (pages, page_size // TILE)
    return keys.reshape(*lead, *keys.shape[1:]), values.reshape(*lead, *values.shape[1:])


def held_as(config: ModelConfig, layer: int, numerics: Numerics) -> Any:
    """uint16 (BF16) if all that the layer caches was rounded to BF16, or else float32."""
    card = config.attention[layer]
    assert isinstance(card, AttentionCard)  # no other has pages
    limit = np.array([card.clip or 0], np.float32)  # values may be just that
    exact = numerics.storage == "bfloat16" and bool((round_to_bf16(limit) == limit).all())
    return np.uint16 if exact else np.float32


def empty_keys(count: int, heads: int, dim: int, dtype: Any) -> Array:
    """So many tiles of 16 keys: (count, Nk, D, 16)."""
    return _empty((count, heads, dim, TILE), dtype)


def empty_values(count: int, heads: int, dim: int, dtype: Any) -> Array:
    """So many tiles of 16 values: (count, Nk, ceil(Dv / 16), 16, 16)."""
    return _empty((count, heads, -(-dim // TILE), TILE, TILE), dtype)


def _empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros; of many, the first at the beginning of one of the system's huge pages.

    A context is read from end to end, and where it lies in pages of 4 KB a CPU looks up, on the
    way, where each of them is. The system has huge pages only for whole multiples of 2 MB: of
    8.4 MB that begin anywhere a quarter lay in small ones, and attention took 7 % longer.
    """
    numbers = int(np.prod(shape))
    large = numbers * np.dtype(dtype).itemsize >= LARGE
    return aligned(numbers, dtype, HUGE if large else ALIGNMENT).reshape(shape)


def tiled(keys: Array, values: Array, first: int) -> tuple[Array, Array]:
    """float32 tiles of keys (n, Nk, D) and values (n, Nk, Dv) at positions from `first` on."""
    n, heads, dim = keys.shape
    before, value_dim = first % TILE, values.shape[2]
    count = -(-(before + n) // TILE)
    by_position = np.zeros((count * TILE, heads, dim), np.float32)
    by_position[before : before + n] = keys
    of_keys = empty_keys(count, heads, dim, np.float32)
    of_keys[...] = by_position.reshape(count, TILE, heads, dim).transpose(0, 2, 3, 1)
    of_values = empty_values(count, heads, value_dim, np.float32)
    parts = of_values.shape[2]
    by_position = np.zeros((count * TILE, heads, parts * TILE), np.float32)
    by_position[before : before + n, :, :value_dim] = values
    split = by_position.reshape(count, TILE, heads, parts, TILE)
    of_values[...] = split.transpose(0, 2, 3, 1, 4)
    return of_keys, of_values


def _put_bf16(builder: Any, address: Any, value: Any) -> None:
    high = builder.lshr(builder.bitcast(value, ir.IntType(32)), ir.IntType(32)(16))
    pointer = builder.inttoptr(address, ir.IntType(16).as_pointer())
    builder.store(builder.trunc(high, ir.IntType(16)), pointer, align=2)


def _put_row(builder: Any, address: Any, values: Any) -> None:
    words = ir.VectorType(ir.IntType(32), 8)
    low, high = (builder.bitcast(lanes_of(builder, values, at, 8), words) for at in (0, 8))
    low = builder.lshr(low, ir.Constant(words, [16] * 8))
    high = builder.and_(high, ir.Constant(words, [-65536] * 8))
    pointer = builder.inttoptr(address, words.as_pointer())
    builder.store(builder.or_(low, high), pointer, align=4)


put_bf16 = operation(
    types.void, (types.int64, types.float32), _put_bf16, "Write a float32 that is BF16 as BF16."
)
put_row = operation(
    types.void, (types.int64, F32), _put_row, "Write 16 that are BF16 as a row of a tile."
)


@inlined
def slot_of(batch, group, t):
    """Where a token's key and value go in its pages: page * P + place."""
    run, position = i64_at(word(batch, RUN_OF) + 8 * t), i64_at(word(batch, POSITIONS) + 8 * t)
    table = i64_at(word(batch, TABLES) + 8 * (group * word(batch, RUNS) + run))
    size = word(batch, PAGE_SIZE)
    return i64_at(table + 8 * (position // size)) * size + position % size


@part
def put_key(x, width, pages, item, heads, head, slot):
    """A key, `width` float32, to its head's place of a slot.

    item: bytes of a number in the pages, 4 or 2; 2 cuts off what a BF16 number does not have.
    """
    tile, lane = pages + item * TILE * width * (slot // TILE * heads + head), slot % TILE
    if item == 4:
        for d in range(width):
            put_f32(tile + 4 * (TILE * d + lane), f32_at(x + 4 * d))
    else:
        half = 2 * lane if lane < 8 else 2 * lane - 15
        for d in range(width):
            put_bf16(tile + 2 * (TILE * d + half), f32_at(x + 4 * d))


@part
def put_value(x, width, pages, item, heads, head, slot):
    """A value, as `put_key`."""
    parts, row = (width + TILE - 1) // TILE, item * TILE
    to = pages + row * TILE * parts * (slot // TILE * heads + head) + row * (slot % TILE)
    for number in range(parts):
        v = piece(x + 64 * number, width - TILE * number)
        if item == 4:
            store(to + row * TILE * number, v)
        else:
            put_row(to + row * TILE * number, v)


WRITE = "x x_stride x_head heads width pages group item"


@kernel(WRITE, by_token=ALWAYS)
def write_keys(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Each token's keys to its slot in the pages of a cache group.

    x: `heads` pieces of `width` numbers in each token's row, strides in numbers. See `put_key`.
    """
    x, x_stride, x_head, heads, width, pages, group, item = arguments(args, 8)
    first, last = share_tokens(batch, thread, threads)
    for number in range(first * heads, last * heads):
        t, head = number // heads, number % heads
        at = x + 4 * (t * x_stride + head * x_head)
        put_key(at, width, pages, item, heads, head, slot_of(batch, group, t))


@kernel(WRITE, by_token=ALWAYS)
def write_values(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Each token's values to its slot: as `write_keys`."""
    x, x_stride, x_head, heads, width, pages, group, item = arguments(args, 8)
    first, last = share_tokens(batch, thread, threads)
    for number in range(first * heads, last * heads):
        t, head = number // heads, number % heads
        at = x + 4 * (t * x_stride + head * x_head)
        put_value(at, width, pages, item, heads, head, slot_of(batch, group, t))

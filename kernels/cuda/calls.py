"""One launch each: kernel, grid and arguments, on arrays that are there already.

Nothing is allocated, checked against a contract or read back here, so a captured graph may hold
these calls; `ops_model.py` makes ops of them, `decode_step.py` a whole layer. All arrays lie on the
device, float32 and C-contiguous unless said; `bf16` is 1 where results are rounded to BF16.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from tinymoe.cards import ExpertCard
from tinymoe.kernels.cuda.arguments import blocks_for
from tinymoe.kernels.cuda.launch import Device, launch

Buffer: TypeAlias = Any  # an array of the device, or NULL where a kernel takes none
COLUMNS = 4  # outputs of a block: a warp each
ROWS = 8  # of a tile of tokens
THREADS = 128  # of a block where each thread has a number of its own


def ints(*numbers: int) -> list[np.int32]:
    """As a kernel reads them."""
    return [np.int32(number) for number in numbers]


def linear(
    device: Device, out: Buffer, x: Buffer, weight: Buffer, bias: Buffer, bf16: np.int32
) -> None:
    """out (T, outs) = x (T, in) @ weight (outs, in)' + bias (outs,)."""
    (tokens, width), outs = x.shape, weight.shape[0]
    rows = 1 if tokens == 1 else ROWS
    launch(
        device.kernel("linear", f"linear_{rows}"),
        (-(-outs // COLUMNS), -(-tokens // rows)),
        32 * COLUMNS,
        [out, x, weight, bias, *ints(tokens, width, outs), bf16],
    )


def rmsnorm(
    device: Device,
    out: Buffer,
    x: Buffer,
    weight: Buffer,
    eps: float,
    rounds_before_weight: bool,
    bf16: np.int32,
) -> None:
    """out, x (..., N); weight (N,), or (heads, N) where x is (..., heads, N)."""
    width = x.shape[-1]
    heads = weight.shape[0] if weight.ndim == 2 else 1
    warps = min(8, -(-width // 32))  # by N alone: the order of the sum must not depend on T
    launch(
        device.kernel("rmsnorm", "rmsnorm"),
        x.size // width,
        32 * warps,
        [
            *(out, x, weight, *ints(width, heads)),
            *(np.float32(eps), *ints(rounds_before_weight), bf16),
        ],
    )


def rope(
    device: Device,
    out: Buffer,
    x: Buffer,
    tables: tuple[Buffer, Buffer],
    positions: Buffer,
    interleaved: bool,
    bf16: np.int32,
) -> None:
    """out, x (T, N, D); tables (T, ..., d/2), or of all positions, with positions (T,) int64."""
    (tokens, heads, size), half = x.shape, tables[0].shape[-1]
    launch(
        device.kernel("rope", "rope"),
        blocks_for(tokens * heads * (size - half), THREADS),
        THREADS,
        [
            *(out, x, *tables, positions),
            *ints(tokens, heads, size, 2 * half, interleaved),
            bf16,
        ],
    )


def expert_ffn(
    device: Device,
    out: Buffer,
    middle: Buffer,
    x: Buffer,
    weights: tuple[Buffer, Buffer],
    biases: tuple[Buffer, Buffer],
    offsets: Buffer,
    card: ExpertCard,
    bf16: np.int32,
) -> None:
    """out, x (S, H); middle (S, I) between the two launches; offsets (E + 1,) int64.

    weights: gate_up (E, 2I, H), down (E, H, I). The grid has room for the most tiles that S rows of
    E experts can make, so the counts are never read back.
    """
    rows, (experts, hidden, width) = len(x), weights[1].shape
    tile = 1 if rows <= 2 * experts else ROWS  # where few share an expert, tiles of one
    tiles, clamped = most_tiles(rows, experts, tile), card.activation != "swiglu"
    limits = np.float32(card.clamp_limit or 0), np.float32(card.clamp_alpha or 0)
    launch(
        device.kernel("expert_ffn", f"experts_gate_up_{tile}"),
        (-(-width // COLUMNS), tiles),
        32 * COLUMNS,
        [
            *(middle, x, weights[0], biases[0], offsets),
            *(*ints(experts, hidden, width, clamped), *limits, bf16),
        ],
    )
    launch(
        device.kernel("expert_ffn", f"experts_down_{tile}"),
        (-(-hidden // COLUMNS), tiles),
        32 * COLUMNS,
        [out, middle, weights[1], biases[1], offsets, *ints(experts, width, hidden), bf16],
    )


def most_tiles(rows: int, experts: int, tile: int) -> int:
    """How many tiles of one expert each there can be: every full one, and a last one an expert.

    >>> most_tiles(rows=20, experts=4, tile=8), most_tiles(rows=3, experts=4, tile=8)
    (6, 3)
    """
    return min(rows, rows // tile + min(rows, experts))


def take_rows(
    device: Device,
    out: Buffer,
    table: Buffer,
    ids: Buffer,
    per: int,
    factor: float,
    bf16: np.int32,
) -> None:
    """out (R, N) = factor * rows ids // per of table (..., N); ids (R,) int64.

    Embedding: per 1. A token's row for each of its experts: ids are slots, per is K.
    """
    rows, width = out.shape
    launch(
        device.kernel("rows", "take_rows"),
        blocks_for(out.size, THREADS),
        THREADS,
        [out, table, ids, *ints(rows, width, per), np.float32(factor), bf16],
    )


def add_to(
    device: Device, out: Buffer, x: Buffer, part: Buffer, factor: float, bf16: np.int32
) -> None:
    """out = x + factor * part, all of one shape; `out` may be `x`."""
    launch(
        device.kernel("rows", "add_to"),
        blocks_for(out.size, THREADS),
        THREADS,
        [out, x, part, *ints(out.size), np.float32(factor), bf16],
    )


def slots_of(
    device: Device, slots: Buffer, positions: Buffer, tables: Buffer, page_size: int
) -> None:
    """slots, positions (R,), tables (R, width), all int64: where each new token goes."""
    rows, width = tables.shape
    launch(
        device.kernel("write_pages", "slots_of"),
        blocks_for(rows, THREADS),
        THREADS,
        [slots, positions, tables, *ints(rows, width, page_size)],
    )


def write_pages(device: Device, pages: Buffer, slots: Buffer, values: Buffer) -> None:
    """Rows slots (T,) int64 of pages (pages, P, N, D) become values (T, N, D)."""
    launch(
        device.kernel("write_pages", "write_pages"),
        blocks_for(values.size, THREADS),
        THREADS,
        [pages, slots, values, *ints(len(values), values.size // len(values))],
    )
